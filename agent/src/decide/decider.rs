//! One session's decisions.

use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use bailiff_model::Chain;
use bailiff_policy::catalog::Oid;
use bailiff_policy::{
    ChainPolicy, Classified, ConnectAs, Detection, ParserPool, Ruling, Settings, Target, Unclassified,
};
use bailiff_wire::sql::{Normal, normalise};
use foldhash::HashMap;
use tokio::sync::oneshot;

use super::InForce;
use super::cache::Meaning;
use super::kept::Kept;
use crate::catalog::{SessionCatalog, SessionPlace};
use crate::proxy::End;
use crate::proxy::worker::WorkerShared;

/// Rulings that a session keeps; a session that uses more kinds of statements makes some anew.
const RULINGS: usize = 512;

/// Client encodings in which a byte of a character may look like a quote or a backslash.
const UNSAFE_ENCODINGS: [&str; 8] = [
    "SJIS",
    "SHIFT_JIS_2004",
    "BIG5",
    "GBK",
    "UHC",
    "GB18030",
    "JOHAB",
    "MULE_INTERNAL",
];

/// What looking a text up gave.
pub(crate) enum Lookup {
    /// What it does, and what is decided about it.
    Known(Meaning, Arc<Ruling>),
    /// It is being parsed.
    Started,
}

/// Until when the next statement has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CatalogWait {
    /// The answers to what was sent, which may change what names stand for.
    Answers,
    /// The catalog is read.
    Reading,
}

/// A parse under way: under which keys its outcome is kept.
struct Parsing {
    outcome: oneshot::Receiver<Result<Classified, Unclassified>>,
    exact: Box<[u8]>,
    lifted: Option<Box<[u8]>>,
}

/// How a session came to its target. A policy that asks for something else ends it.
pub(crate) struct Standing {
    /// Whether what passes can be read on the pod's own wire.
    pub(crate) exposed: bool,
    /// As whom it connects.
    pub(crate) mapping: ConnectAs,
}

/// Decides for one session, and keeps what its decisions depend on.
pub(crate) struct Decider {
    in_force: Arc<InForce>,
    target: Arc<Target>,
    chain: Arc<Chain>,
    policy: ChainPolicy,
    generation: u64,
    epoch: u64,
    kept: Kept,
    parsers: Arc<ParserPool>,
    shared: Rc<WorkerShared>,
    settings: Settings,
    settings_may_change: bool,
    client_is_utf8: bool,
    server_is_utf8: bool,
    parsing: Option<Parsing>,
    standing: Standing,
    /// A changed policy asks for another standing.
    outdated: bool,
    /// By the address of what they are about. That it isn't freed is all that is needed of it.
    rulings: HashMap<usize, (Weak<Classified>, Arc<Ruling>)>,
    unknown: Option<Arc<Ruling>>,
    replication: Option<Arc<Ruling>>,
    catalog: Option<SessionCatalog>,
    scratch: Vec<u8>,
    key: Vec<u8>,
}

impl Decider {
    /// Decides for a chain at a target, by the policy in force.
    pub(crate) fn new(
        target: Arc<Target>,
        chain: Arc<Chain>,
        policy: ChainPolicy,
        shared: Rc<WorkerShared>,
        settings: Settings,
        standing: Standing,
    ) -> Self {
        let generation = policy.generation();
        Self {
            in_force: Arc::clone(&shared.options.in_force),
            target,
            chain,
            policy,
            generation,
            epoch: 0,
            kept: Kept::default(),
            parsers: Arc::clone(&shared.options.parsers),
            shared,
            settings,
            settings_may_change: false,
            client_is_utf8: false,
            server_is_utf8: false,
            parsing: None,
            standing,
            outdated: false,
            rulings: HashMap::default(),
            unknown: None,
            replication: None,
            catalog: None,
            scratch: Vec::new(),
            key: Vec::new(),
        }
    }

    /// Decides by the catalog of the database in which the session is, where the target's definition says how to read it.
    pub(crate) fn in_database(mut self, session: SessionPlace) -> Self {
        self.catalog = SessionCatalog::new(&self.shared.options.catalogs, &self.target, session);
        self
    }

    /// Whether the next statement has to wait until what the session changed is known, or until somebody else's change is.
    pub(crate) fn waits_for_catalog(&mut self) -> Option<CatalogWait> {
        if self.catalog.is_none() || !self.policy.asks_catalog() {
            return None;
        }
        self.waits_to_be_told()
    }

    /// The same for what is decided by nothing but the catalog, whatever the policy.
    pub(crate) fn waits_to_be_told(&mut self) -> Option<CatalogWait> {
        self.refresh();
        let catalog = self.catalog.as_ref()?;
        if catalog.is_pending() {
            Some(CatalogWait::Answers)
        } else {
            catalog.must_wait().then_some(CatalogWait::Reading)
        }
    }

    /// Waits for the catalog, though not for long.
    pub(crate) fn poll_catalog(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.catalog {
            Some(catalog) => catalog.poll_caught_up(cx),
            None => Poll::Ready(()),
        }
    }

    /// Notes a statement that is passed on, which may change what names stand for.
    pub(crate) fn passes(&mut self, meaning: &Meaning, ruling: &Ruling, text: &[u8]) {
        let Some(catalog) = &mut self.catalog else {
            return;
        };
        if catalog.passes(meaning.as_deref(), ruling, text) {
            self.forget_rulings();
        }
    }

    /// Notes that an answer came after which what the session changed may be there for everybody.
    pub(crate) fn may_have_committed(&self) {
        if let Some(catalog) = &self.catalog {
            catalog.may_have_committed();
        }
    }

    /// Finds what a text does and what is decided about it, or starts to parse it.
    pub(crate) fn lookup(&mut self, text: &[u8]) -> Lookup {
        self.refresh();
        let normal = normalise(text, &mut self.scratch);
        let lifted = matches!(normal, Normal::Lifted);
        let found = {
            let mut cache = self.shared.classifications.borrow_mut();
            let by_shape = if lifted {
                Self::write_key(&mut self.key, &self.settings, true, &self.scratch);
                cache.get(&self.key)
            } else {
                None
            };
            by_shape.or_else(|| {
                Self::write_key(&mut self.key, &self.settings, false, text);
                cache.get(&self.key)
            })
        };
        if let Some(meaning) = found {
            let ruling = self.rule(&meaning);
            return Lookup::Known(meaning, ruling);
        }
        let exact = self.key.clone().into_boxed_slice();
        let sql = match std::str::from_utf8(text) {
            Ok(sql) => sql.to_owned(),
            // The grammar reads UTF-8 only. In the encodings that are let through, bytes beyond ASCII are letters for certain, whichever;
            // a name that has any is unknown.
            Err(_) if !self.settings.names_are_utf8 => text.iter().copied().map(char::from).collect(),
            // Uncertainty denies: these bytes are of no encoding that the server has told.
            Err(_) => return Lookup::Known(None, self.rule(&None)),
        };
        let lifted = lifted.then(|| {
            Self::write_key(&mut self.key, &self.settings, true, &self.scratch);
            self.key.clone().into_boxed_slice()
        });
        let (done, outcome) = oneshot::channel();
        let submitted = self.parsers.submit(
            sql,
            self.settings.clone(),
            Box::new(move |classified| {
                let _ = done.send(classified); // The session may be gone.
            }),
        );
        if submitted.is_err() {
            // Uncertainty denies: the parsers' queue is full, and waiting for it would hold memory without bound.
            self.reached("grammar_queue");
            return Lookup::Known(None, self.rule(&None));
        }
        self.parsing = Some(Parsing {
            outcome,
            exact,
            lifted,
        });
        Lookup::Started
    }

    /// Waits for the parse under way. When it is ready, looking the text up again finds it.
    pub(crate) fn poll_classified(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(parsing) = &mut self.parsing else {
            return Poll::Ready(());
        };
        let Poll::Ready(outcome) = std::pin::Pin::new(&mut parsing.outcome).poll(cx) else {
            return Poll::Pending;
        };
        let Some(parsing) = self.parsing.take() else {
            return Poll::Ready(());
        };
        let mut cache = self.shared.classifications.borrow_mut();
        match outcome {
            Ok(Ok(classified)) => {
                let key = match parsing.lifted {
                    Some(lifted) if !classified.literal_sensitive() => lifted,
                    _ => parsing.exact,
                };
                cache.insert(key, Some(Arc::new(classified)));
            }
            // Uncertainty denies: what can't be parsed, or whose parser went away, is unknown.
            Ok(Err(why)) => {
                cache.insert(parsing.exact, None);
                if why == Unclassified::TooDeep {
                    self.reached("nesting");
                }
            }
            Err(_) => cache.insert(parsing.exact, None),
        }
        Poll::Ready(())
    }

    /// What is decided about an operation of which nothing is known.
    pub(crate) fn unknown(&mut self) -> Arc<Ruling> {
        self.refresh();
        self.rule(&None)
    }

    /// A statement that calls the function of this number, where the catalog tells which one it is.
    pub(crate) fn call_of(&mut self, function: u32) -> Option<String> {
        self.refresh();
        let names = self.catalog.as_ref().and_then(SessionCatalog::names)?;
        let function = names.catalog().function_by_oid(Oid(function))?;
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let values: Vec<String> = (1..=function.arguments.len())
            .map(|place| format!("${place}"))
            .collect();
        Some(format!(
            "SELECT {}.{}({})",
            quoted(&function.schema),
            quoted(&function.name),
            values.join(", ")
        ))
    }

    /// What is decided about replication: the connection and its commands.
    pub(crate) fn replication(&mut self) -> Arc<Ruling> {
        self.refresh();
        let (policy, settings) = (&self.policy, &self.settings);
        Arc::clone(
            self.replication
                .get_or_insert_with(|| policy.decide_replication(settings)),
        )
    }

    /// Grows whenever the policy or the settings change, so that the same statement may be decided in another way.
    pub(crate) fn epoch(&mut self) -> u64 {
        self.refresh();
        self.epoch
    }

    /// What is decided now about a statement that was prepared in an earlier epoch.
    pub(crate) fn rule_again(&mut self, meaning: &Meaning) -> Arc<Ruling> {
        self.rule(meaning)
    }

    /// The answer to an operation in the end: that which runs what another one left behind is decided by what it runs.
    pub(crate) fn answer(&mut self, ruling: Arc<Ruling>) -> Arc<Ruling> {
        if !ruling.lasting().draws {
            return ruling;
        }
        match self.denied_of_kept() {
            Some(denied) => denied
                .denies_as(&ruling)
                // Uncertainty denies: its rows would have to be masked, and can't be told.
                .unwrap_or_else(|| self.policy.decide_unknown(&self.settings)),
            None => ruling,
        }
    }

    /// Notes an operation that was allowed and may leave something behind.
    pub(crate) fn keep(&mut self, meaning: &Meaning, ruling: &Ruling) {
        let lasting = ruling.lasting();
        if lasting.leaves() {
            self.kept.note(meaning, self.epoch, lasting.beyond_transaction);
        }
    }

    /// Whether a name must surely stand for the statement that it seems to: where rows are masked, or where something that the
    /// session left behind isn't allowed any more.
    pub(crate) fn needs_sure_names(&mut self) -> bool {
        self.policy.masks_in_force() || self.denied_of_kept().is_some()
    }

    /// Says that no transaction is open.
    pub(crate) fn transaction_ended(&mut self) {
        self.kept.transaction_ended();
        if self
            .catalog
            .as_mut()
            .is_some_and(SessionCatalog::transaction_ended)
        {
            self.forget_rulings();
        }
    }

    fn denied_of_kept(&mut self) -> Option<Arc<Ruling>> {
        let mut kept = std::mem::take(&mut self.kept);
        let denied = kept.denied(self.epoch, |meaning| self.rule(meaning));
        self.kept = kept;
        denied
    }

    /// What detectors do with what the server says of itself, or of other sessions.
    pub(crate) fn detection(&mut self) -> Option<Arc<Detection>> {
        self.refresh();
        self.policy.detection_anywhere()
    }

    /// Takes a setting that the server reports.
    pub(crate) fn parameter(&mut self, name: &[u8], value: &[u8]) -> Result<(), End> {
        match name {
            b"client_encoding" => {
                let value = String::from_utf8_lossy(value);
                if UNSAFE_ENCODINGS
                    .iter()
                    .any(|encoding| value.eq_ignore_ascii_case(encoding))
                {
                    return Err(End::Refused(
                        "this client_encoding can hide a quote from the agent; use UTF8",
                    ));
                }
                // Without an encoding of its own a client's bytes are the server's.
                self.client_is_utf8 = matches!(&*value, "UTF8" | "SQL_ASCII");
                self.settings.names_are_utf8 = self.client_is_utf8 && self.server_is_utf8;
            }
            b"server_encoding" => {
                self.server_is_utf8 = value == b"UTF8";
                self.settings.names_are_utf8 = self.client_is_utf8 && self.server_is_utf8;
            }
            b"server_version" => {
                let digits: String = value
                    .iter()
                    .map_while(|byte| byte.is_ascii_digit().then_some(char::from(*byte)))
                    .collect();
                // Uncertainty denies: what can't be read is older than all that are known.
                self.settings.server = digits.parse().unwrap_or_default();
            }
            b"standard_conforming_strings" => {
                self.settings.standard_conforming_strings = value == b"on";
            }
            b"search_path"
                if self
                    .catalog
                    .as_mut()
                    .is_some_and(|catalog| catalog.reported(value)) =>
            {
                self.forget_rulings();
                if !self.policy.trusts_search_path(value) {
                    self.distrust_search_path();
                }
            }
            // Newer servers report it. Where it is moved, unqualified names mean something else.
            b"search_path" if !self.policy.trusts_search_path(value) => self.distrust_search_path(),
            _ => {}
        }
        Ok(())
    }

    /// Says that the operation just sent may change settings.
    pub(crate) fn may_change_settings(&mut self) {
        self.settings_may_change = true;
    }

    /// Whether settings may be changing.
    pub(crate) fn settings_may_change(&self) -> bool {
        self.settings_may_change
    }

    /// Says that all answers have come, and with them the settings that the server reports.
    pub(crate) fn settings_settled(&mut self) {
        self.settings_may_change = false;
    }

    /// Says that unqualified names may mean anything from now on.
    pub(crate) fn distrust_search_path(&mut self) {
        if self.settings.search_path_trusted {
            self.settings.search_path_trusted = false;
            self.forget_rulings();
        }
    }

    fn reached(&self, limit: &'static str) {
        self.shared.options.metrics.limit(limit);
        tracing::warn!(limit, "a statement can't be told and counts as unknown");
    }

    fn write_key(key: &mut Vec<u8>, settings: &Settings, lifted: bool, text: &[u8]) {
        key.clear();
        key.push(
            u8::from(settings.standard_conforming_strings)
                | u8::from(lifted) << 1
                | u8::from(settings.names_are_utf8) << 2,
        );
        key.push(u8::try_from(settings.server).unwrap_or(u8::MAX));
        key.extend_from_slice(text);
    }

    fn rule(&mut self, meaning: &Meaning) -> Arc<Ruling> {
        let Some(classified) = meaning else {
            let (policy, settings) = (&self.policy, &self.settings);
            return Arc::clone(
                self.unknown
                    .get_or_insert_with(|| policy.decide_unknown(settings)),
            );
        };
        let place = Arc::as_ptr(classified).addr();
        if let Some((_, ruling)) = self.rulings.get(&place) {
            return Arc::clone(ruling);
        }
        let names = self.catalog.as_ref().and_then(SessionCatalog::names);
        let ruling = self.policy.decide_sql_by(classified, &self.settings, names);
        if self.rulings.len() >= RULINGS {
            self.rulings.clear();
        }
        self.rulings
            .insert(place, (Arc::downgrade(classified), Arc::clone(&ruling)));
        ruling
    }

    /// Feels a change of policy, settings or catalog.
    fn refresh(&mut self) {
        if self.catalog.as_mut().is_some_and(SessionCatalog::refresh) {
            self.forget_rulings();
        }
        if self.in_force.generation() == self.generation {
            return;
        }
        let set = self.in_force.load();
        // A target that is gone from the configuration keeps its last definition for sessions that are open: nothing in
        // the new one says how to decide for it, and its policies no longer name it, so its default decides.
        let target = set
            .targets()
            .iter()
            .find(|target| target.name == self.target.name)
            .map_or(&self.target, |t| t);
        self.policy = set.for_chain(target, &self.chain);
        self.target = Arc::clone(target);
        self.generation = set.generation();
        self.outdated = (self.standing.exposed && self.policy.masks_in_force())
            || !self
                .policy
                .connect_as()
                .is_ok_and(|mapping| mapping == self.standing.mapping);
        self.forget_rulings();
    }

    /// Whether the policy in force asks for another way to the target, or for another user, than those of the session.
    pub(crate) fn is_outdated(&self) -> bool {
        self.outdated
    }

    fn forget_rulings(&mut self) {
        self.epoch += 1;
        self.rulings.clear();
        self.unknown = None;
        self.replication = None;
    }
}
