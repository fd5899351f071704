//! Bailiff's words as types: ids, addresses by role, chains, operations, verdicts.
