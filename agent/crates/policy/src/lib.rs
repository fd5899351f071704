//! Policies: loading them, classifying statements, deciding, planning masks. Pure but for reading files on load.
//!
//! The one way to a [`Permit`] is [`Ruling::permit`], and the one way to a [`Ruling`] is a [`ChainPolicy`].

mod addresses;
mod algebra;
mod api;
pub mod catalog;
mod classify;
mod compiled;
mod connection;
mod cover;
mod decide;
mod detect;
mod glob;
mod load;
mod mask;
mod parser;
mod path;
mod permit;
pub mod report;

pub use addresses::{
    ALL_ADDRESSES, AddressSource, Refused, RefusedAddress, ServiceAddress, ServiceAddresses, ServicePort,
    ServiceRef, TARGET_ADDRESSES,
};
pub use api::{
    ApiBody, BodyFacts, BodyForm, Doubt, FieldMasks, FieldPlace, FieldTreatment, MAX_TARGET, Typed, Untold,
    type_request,
};
pub use classify::{
    Classified, CopyFormat, CopyLayout, Lasting, PathMove, Settings, Touch, Unclassified, classify,
};
pub use compiled::{CatalogAccess, Endpoint, PolicySet, Target};
pub use connection::{
    ClientCertificates, ClientTls, ClientTlsMode, ClientTokens, ConnectAs, Credential, Proof, ServerIdentity,
    SigningRequest, TokenIssuer, TokenUsers, UpstreamTls, UpstreamTlsMode,
};
pub use decide::{ChainPolicy, Denial, Ruling};
pub use detect::{Detection, Detector, Detectors, Found, PLACEHOLDER, Treatment, mask_text};
pub use load::{LoadErrors, Manifest, Partial, Problem, SchemaError, Sources, manifests};
pub use mask::{HashKey, MaskAction, MaskPlan, Unresolved, ValueType};
pub use parser::{ParserPool, Submitted};
pub use permit::{DialPermit, Permit};
