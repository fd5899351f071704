//! Policies: loading, statement classification, evaluation, masks, Permit.
