//! Permission as a value that only this crate can make, and that is used up.

use bailiff_model::TargetName;

/// Leave to pass one operation on. Forwarding consumes it.
///
/// It can't be made outside this crate:
///
/// ```compile_fail
/// let forged = bailiff_policy::Permit { _made_here: () };
/// ```
///
/// nor used twice:
///
/// ```compile_fail
/// fn forward(_: bailiff_policy::Permit) {}
/// fn twice(permit: bailiff_policy::Permit) {
///     forward(permit);
///     forward(permit);
/// }
/// ```
///
/// nor copied:
///
/// ```compile_fail
/// fn copy(permit: &bailiff_policy::Permit) -> bailiff_policy::Permit {
///     permit.clone()
/// }
/// ```
#[derive(Debug)]
#[must_use = "a permit that isn't used means that something allowed was not done"]
pub struct Permit {
    _made_here: (),
}

impl Permit {
    pub(crate) const fn grant() -> Self {
        Self { _made_here: () }
    }
}

/// Leave to dial one target once.
///
/// ```compile_fail
/// let forged = bailiff_policy::DialPermit { target: bailiff_model::TargetName::new("db") };
/// ```
#[derive(Debug)]
#[must_use = "a permit that isn't used means that something allowed was not done"]
pub struct DialPermit {
    target: TargetName,
}

impl DialPermit {
    pub(crate) const fn grant(target: TargetName) -> Self {
        Self { target }
    }

    /// The target that may be dialed.
    #[must_use]
    pub fn target(&self) -> &TargetName {
        &self.target
    }
}
