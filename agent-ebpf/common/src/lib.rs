//! The kernel ABI: what the kernel programs and the agent both read and write. Fixed-width fields, explicit padding.
//!
//! A change of any layout here is a change of [`ABI_VERSION`], which is a part of the maps' names: an agent never takes over
//! maps that it would misread.

#![no_std]

/// Version of every layout in this crate.
pub const ABI_VERSION: u32 = 4;

/// An IPv6 address, or an IPv4 one as IPv4-mapped, in network order.
pub type Address = [u8; 16];

/// The first bytes of an IPv4-mapped address.
pub const V4_MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// How many levels of cgroups are looked through for a pod's.
pub const MAX_CGROUP_LEVELS: i32 = 12;

/// Settings. The only entry of `CONFIG`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The agent's cgroup: what its sockets send passes the host-side guard.
    pub agent_cgroup: u64,
    /// The cgroup of the agent before, which may still drain; 0 for none.
    pub agent_before: u64,
    /// The root of the hierarchy, where kernel threads are.
    pub root_cgroup: u64,
    /// The cgroup above all pods.
    pub pods_cgroup: u64,
    /// A heartbeat older than this counts as none, in nanoseconds.
    pub heartbeat_max_age_ns: u64,
    /// [`HAS_PREFIXES`] and its kind.
    pub flags: u32,
    /// Zero.
    pub _pad: u32,
}

/// There are targets shorter than a host address, so that the tries have to be asked.
pub const HAS_PREFIXES: u32 = 1;
/// There are targets of any port, so that the set of ports doesn't tell.
pub const HAS_ANY_PORT: u32 = 2;

/// A host address and port; port 0 for any.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HostKey {
    /// The address.
    pub address: Address,
    /// The port in host order.
    pub port: u16,
    /// Zero.
    pub _pad: u16,
}

/// What a prefix is matched with: the port comes first, so that it always matches whole.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PrefixKey {
    /// The port in host order; 0 for any.
    pub port: u16,
    /// Zero.
    pub _pad: u16,
    /// The address.
    pub address: Address,
}

/// Bits of a [`PrefixKey`] before its address.
pub const PREFIX_KEY_HEAD: u32 = 32;

/// What is known of a protected address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Protected {
    /// 1 where new connections go direct while the agent doesn't answer, else 0.
    pub open: u32,
    /// Length of the prefix in bits of the mapped form.
    pub prefix: u32,
}

/// A pod, by its cgroup.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enrolment {
    /// Its network namespace.
    pub netns: u64,
    /// The agent's listeners there, in host order.
    pub port: u16,
    /// The listeners before a take-over, which may still have connections queued; 0 for none.
    pub old_port: u16,
    /// [`EXEMPT`].
    pub flags: u32,
}

/// What this cgroup connects to is not diverted.
pub const EXEMPT: u32 = 1;

/// A connection as both of its ends see it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct OriginKey {
    /// The namespace of both ends. A socket's cookie, with everything else zero, where the entry only keeps a place free.
    pub netns: u64,
    /// The client's address.
    pub client: Address,
    /// The listener's address.
    pub listener: Address,
    /// The client's port in host order.
    pub client_port: u16,
    /// The listener's port in host order.
    pub listener_port: u16,
    /// Zero.
    pub _pad: u32,
}

/// Who connected, and to what.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The socket's cookie.
    pub socket: u64,
    /// The connecting pod's cgroup.
    pub pod_cgroup: u64,
    /// The connecting task's own cgroup.
    pub cgroup: u64,
    /// The cgroup of the pod whose task made the socket; 0 where that isn't known.
    pub creator_pod_cgroup: u64,
    /// When the connecting process started, in nanoseconds of the boot-time clock; 0 where that wasn't seen.
    pub started_ns: u64,
    /// The connecting process.
    pub tgid: u32,
    /// Its real user.
    pub uid: u32,
    /// Its real group.
    pub gid: u32,
    /// The process that made the socket; 0 where that isn't known.
    pub creator_tgid: u32,
    /// The address asked for.
    pub destination: Address,
    /// The port asked for, in host order.
    pub port: u16,
    /// The listener's port, in host order.
    pub listener_port: u16,
    /// Zero.
    pub _pad: u32,
    /// The connecting task's name.
    pub comm: [u8; 16],
}

/// What is kept in a socket's own storage.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketNote {
    /// [`NOTE_DIVERTED`], [`NOTE_DIRECT`] or 0.
    pub state: u32,
    /// The process that made the socket.
    pub creator_tgid: u32,
    /// The cgroup of the pod whose task made the socket.
    pub creator_pod_cgroup: u64,
    /// What was noted when it connected.
    pub origin: Origin,
}

/// The socket's connection was diverted.
pub const NOTE_DIVERTED: u32 = 1;
/// The socket's connection goes direct, by the target's failure mode.
pub const NOTE_DIRECT: u32 = 2;

/// A process, as the tracepoints told of it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// When it was forked, in nanoseconds of the boot-time clock.
    pub started_ns: u64,
    /// Its cgroup when it was forked.
    pub cgroup: u64,
    /// The cgroups that it was in when it was forked, from the one right below the pods' on; 0 for none. A pod's is one of them.
    pub within: [u64; LEVELS_OF_PODS],
    /// When the process that forked it was forked itself; 0 where that wasn't seen.
    pub parent_started_ns: u64,
    /// The process that forked it.
    pub parent: u32,
    /// How often it has executed a program.
    pub execs: u32,
    /// How often it has forked. Of two threads that fork at once one may not be counted.
    pub forks: u32,
    /// [`SCANNED`].
    pub flags: u32,
    /// How many of its threads live.
    pub threads: u64,
    /// The program that it executed last, up to a NUL.
    pub executable: [u8; 128],
}

/// How deep below the pods' cgroup a pod's own may be: kubelet has classes of service in between.
pub const LEVELS_OF_PODS: usize = 3;

/// The process began before anybody noted it; it was found among those that ran.
pub const SCANNED: u32 = 1;

impl Default for Process {
    fn default() -> Self {
        Self {
            started_ns: 0,
            cgroup: 0,
            within: [0; LEVELS_OF_PODS],
            parent_started_ns: 0,
            parent: 0,
            execs: 0,
            forks: 0,
            flags: 0,
            threads: 1,
            executable: [0; 128],
        }
    }
}

/// A process that has ended, told apart from a later one with its number.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EndedKey {
    /// When it was forked.
    pub started_ns: u64,
    /// Its number.
    pub tgid: u32,
    /// Zero.
    pub _pad: u32,
}

/// What the kernel programs count. The numbers are the places in `COUNTERS`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Connections diverted.
    Diverted = 0,
    /// Refused: the connecting task belongs to no enrolled pod.
    RefusedUnenrolled = 1,
    /// Refused: the task is in another network namespace than its pod.
    RefusedNamespace = 2,
    /// Refused: the agent doesn't answer and the target's failure mode is Closed.
    RefusedAgent = 3,
    /// Refused: a direct dial of the agent's listener.
    RefusedListener = 4,
    /// Refused: the map of origins is full.
    RefusedFull = 5,
    /// Refused: a socket that is bound to a device by who can't undo it; or something failed that never should.
    RefusedError = 6,
    /// Went direct: the agent doesn't answer and the target's failure mode is Open.
    Direct = 7,
    /// Origins that couldn't be published.
    OriginLost = 8,
    /// Packets of pods' sockets to protected addresses dropped.
    GuardDropped = 9,
    /// Packets to protected addresses dropped on the host's side of a pod's link.
    HostGuardDropped = 10,
    /// Connections of exempt cgroups.
    Exempt = 11,
}

impl Counter {
    /// All counters, in the order of their numbers.
    pub const ALL: [Self; 12] = [
        Self::Diverted,
        Self::RefusedUnenrolled,
        Self::RefusedNamespace,
        Self::RefusedAgent,
        Self::RefusedListener,
        Self::RefusedFull,
        Self::RefusedError,
        Self::Direct,
        Self::OriginLost,
        Self::GuardDropped,
        Self::HostGuardDropped,
        Self::Exempt,
    ];

    /// The name in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Diverted => "diverted",
            Self::RefusedUnenrolled => "refused_unenrolled",
            Self::RefusedNamespace => "refused_namespace",
            Self::RefusedAgent => "refused_agent",
            Self::RefusedListener => "refused_listener",
            Self::RefusedFull => "refused_full",
            Self::RefusedError => "refused_error",
            Self::Direct => "direct",
            Self::OriginLost => "origin_lost",
            Self::GuardDropped => "guard_dropped",
            Self::HostGuardDropped => "host_guard_dropped",
            Self::Exempt => "exempt",
        }
    }
}

macro_rules! layout {
    ($($type:ty: $size:literal),+ $(,)?) => {
        $(const _: () = assert!(core::mem::size_of::<$type>() == $size);)+
        $(
            // SAFETY: repr(C), Copy, and by the assert above without padding that the fields don't name.
            #[cfg(feature = "user")]
            #[expect(unsafe_code, reason = "aya asks for it to copy a type to and from the kernel")]
            unsafe impl aya::Pod for $type {}
        )+
    };
}

layout! {
    Config: 48,
    HostKey: 20,
    PrefixKey: 20,
    Protected: 8,
    Enrolment: 16,
    OriginKey: 48,
    Origin: 96,
    SocketNote: 112,
    Process: 200,
    EndedKey: 16,
}
