//! The Kubernetes API, over HTTP/1.1 and HTTP/2.
//!
//! Both legs are TLS and speak the version of HTTP that the client chose. Each request is typed and decided by itself; what is allowed
//! goes on with the headers and the body that came, and the answer comes back as it is.

mod answer;
mod body;
mod caller;
mod certified;
mod connection;
mod evidence;
mod exchange;
mod held;
mod impersonation;
mod masking;
mod noted;
mod status;
mod switched;
mod upstream;
mod write;

pub(crate) use connection::serve;
