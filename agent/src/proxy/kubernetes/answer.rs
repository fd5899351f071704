//! The body of an answer, and what is noted of it as it passes.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::evidence::Account;

/// What a client gets.
pub(super) enum Answer {
    /// The agent's own words.
    Said(Full<Bytes>, Account),
    /// The API server's, as they come.
    Passed(Incoming, Account),
}

impl Answer {
    /// The API server's answer.
    pub(super) fn passed(body: Incoming, account: Account) -> Self {
        if body.is_end_stream() {
            account.whole();
        }
        Self::Passed(body, account)
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let (frame, account) = match &mut *self {
            Self::Said(body, account) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                (frame.map(|frame| frame.map_err(|never| match never {})), account)
            }
            Self::Passed(body, account) => (ready!(Pin::new(body).poll_frame(cx)), account),
        };
        match &frame {
            Some(Ok(frame)) => account.answered(frame.data_ref().map_or(0, Bytes::len)),
            Some(Err(_)) => account.broke(),
            None => account.whole(),
        }
        // A body whose length is known isn't asked again after its last byte.
        if let Self::Said(_, account) | Self::Passed(_, account) = &*self
            && self.is_end_stream()
        {
            account.whole();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Said(body, _) => body.is_end_stream(),
            Self::Passed(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Said(body, _) => body.size_hint(),
            Self::Passed(body, _) => body.size_hint(),
        }
    }
}
