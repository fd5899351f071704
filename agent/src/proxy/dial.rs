//! Dialing the target, from the namespace that the target's definition says.

use std::io;
use std::time::Duration;

use bailiff_kernel::net;
use bailiff_model::{OriginalDst, SourceAddress};
use bailiff_policy::DialPermit;
use tokio::net::TcpStream;

use crate::attribution::PodEntry;

/// Dials. The permit is used up: a connection that policy didn't allow can't be dialed.
///
/// Cancel-safe: dropping it closes the socket.
pub(crate) async fn dial(
    permit: DialPermit,
    pod: &PodEntry,
    from: SourceAddress,
    to: OriginalDst,
    within: Duration,
) -> io::Result<TcpStream> {
    drop(permit);
    let to = to.get();
    let socket = match from {
        // The socket belongs to the namespace in which it was made, wherever it is used later.
        SourceAddress::Pod => net::tcp_socket_in(&pod.netns, to)?,
        SourceAddress::Node => net::tcp_socket(to)?,
    };
    let stream = tokio::time::timeout(within, tokio::net::TcpSocket::from_std_stream(socket).connect(to))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}
