//! Keeps the kernel's rules at what was last compiled.

use super::{Firewall, FirewallError, RuleSet, diff};

/// The rules last applied, and where.
pub struct ServiceProxy<F> {
    firewall: F,
    applied: Option<RuleSet>,
}

impl<F: Firewall> ServiceProxy<F> {
    /// Nothing is known of the kernel's rules yet: the first `sync` replaces them whole.
    pub fn new(firewall: F) -> Self {
        Self {
            firewall,
            applied: None,
        }
    }

    /// Makes the rules `wanted`; tells whether anything had to change. After a refused change the next
    /// call starts over with the whole table.
    pub fn sync(&mut self, wanted: RuleSet) -> Result<bool, FirewallError> {
        let change = diff(self.applied.as_ref(), &wanted);
        if change.is_empty() {
            return Ok(false);
        }
        match self.firewall.apply(&change) {
            Ok(()) => {
                self.applied = Some(wanted);
                Ok(true)
            }
            Err(error) => {
                self.applied = None;
                Err(error)
            }
        }
    }

    /// Looks whether our table is still there; if not, the next `sync` makes it anew.
    pub fn check(&mut self) -> Result<(), FirewallError> {
        if !self.firewall.present()? {
            self.applied = None;
        }
        Ok(())
    }
}
