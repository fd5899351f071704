//! The body of an answer, and what is noted of it as it passes.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::evidence::Account;
use super::masking::{Masked, Withheld};

/// What a client gets.
pub(super) enum Answer {
    /// The agent's own words.
    Said(Full<Bytes>, Account),
    /// The API server's, as they come.
    Passed(Incoming, Account),
    /// The API server's, with fields masked.
    Masked(Box<Masked>, Account),
}

impl Answer {
    /// The API server's answer.
    pub(super) fn passed(body: Incoming, account: Account) -> Self {
        if body.is_end_stream() {
            account.whole();
        }
        Self::Passed(body, account)
    }

    fn account(&self) -> &Account {
        match self {
            Self::Said(_, account) | Self::Passed(_, account) | Self::Masked(_, account) => account,
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Withheld;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Withheld>>> {
        let frame = match &mut *self {
            Self::Said(body, _) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                frame.map(|frame| frame.map_err(|never| match never {}))
            }
            Self::Passed(body, _) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                frame.map(|frame| frame.map_err(Withheld::Lost))
            }
            Self::Masked(body, account) => {
                let frame = ready!(body.poll_next(cx));
                account.masked(body.take_masked());
                if let Some(Err(why)) = &frame {
                    tracing::warn!(%why, "an answer was cut: what follows can't be masked");
                }
                frame
            }
        };
        let account = self.account();
        match &frame {
            Some(Ok(frame)) => account.answered(frame.data_ref().map_or(&[], |data| data)),
            Some(Err(_)) => account.broke(),
            None => account.whole(),
        }
        // A body whose length is known isn't asked again after its last byte.
        if !matches!(frame, Some(Err(_))) && self.is_end_stream() {
            account.whole();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Said(body, _) => body.is_end_stream(),
            Self::Passed(body, _) => body.is_end_stream(),
            Self::Masked(body, _) => body.is_done(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Said(body, _) => body.size_hint(),
            Self::Passed(body, _) => body.size_hint(),
            Self::Masked(..) => SizeHint::default(),
        }
    }
}
