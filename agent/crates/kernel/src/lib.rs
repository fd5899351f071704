//! The kernel side's user space: programs, maps, namespaces, sockets.
