//! ServiceCIDRs: the networks that Services' addresses come from.
//!
//! Follows `ValidateServiceCIDR*` of `pkg/apis/networking/validation`.

use caravel_api::FieldErrors;
use k8s_openapi::api::networking::v1::{ServiceCIDR, ServiceCIDRStatus};
use serde_json::json;

use crate::found::{At, Found};
use crate::names;
use crate::strategy::Strategy;

impl Strategy for ServiceCIDR {
    const GENERATION: bool = true;

    fn prepare_create(&mut self) {
        self.status = Some(ServiceCIDRStatus::default());
    }

    fn prepare_update(&mut self, old: &Self) {
        self.status.clone_from(&old.status);
    }

    fn prepare_status(&mut self, old: &Self) {
        self.spec.clone_from(&old.spec);
    }

    fn desired_changed(&self, old: &Self) -> bool {
        self.spec != old.spec
    }

    fn validate(&self) -> FieldErrors {
        let mut found = Found::new();
        let at = At::Root.child("spec");
        let at = at.child("cidrs");
        let cidrs = cidrs(self);
        if cidrs.is_empty() {
            found.required(&at, "at least one CIDR required");
        }
        for (index, cidr) in cidrs.iter().enumerate() {
            let at = at.index(index);
            match cidr.parse::<ipnet::IpNet>() {
                Err(_) => found.faults(&at, cidr, names::cidr(cidr)),
                Ok(net) if net.trunc().to_string() != *cidr => {
                    found.invalid(
                        &at,
                        cidr.as_str(),
                        "must be in canonical form (with no host bits set)",
                    );
                }
                Ok(_) => {}
            }
        }
        let six = cidrs.iter().filter(|cidr| cidr.contains(':')).count();
        if cidrs.len() > 2 || six > 1 || cidrs.len() - six > 1 {
            found.invalid(&at, json!(cidrs), "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64");
        }
        found.into_errors()
    }

    /// A second family may be added; what is there stays.
    fn validate_update(&self, old: &Self) -> FieldErrors {
        let (new, old) = (cidrs(self), cidrs(old));
        if !old.is_empty() && new.len() > old.len() && new.starts_with(old) {
            return self.validate();
        }
        let mut found = Found::new();
        found.immutable(&At::Root.child("spec").child("cidrs"), &new, &old);
        found.into_errors()
    }
}

fn cidrs(object: &ServiceCIDR) -> &[String] {
    object
        .spec
        .as_ref()
        .and_then(|spec| spec.cidrs.as_deref())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn networks() {
        let network = |cidrs: &[&str]| {
            serde_json::from_value::<ServiceCIDR>(json!({"spec": {"cidrs": cidrs}})).unwrap()
        };
        for (cidrs, want) in [
            (&["10.43.0.0/16"][..], "[]"),
            (&["10.43.0.0/16", "fd00::/112"], "[]"),
            (
                &[],
                "spec.cidrs: Required value: at least one CIDR required",
            ),
            (&["10.43.0.1/16"], "must be in canonical form"),
            (
                &["10.43.0.0/16", "10.44.0.0/16"],
                "may specify no more than one IP for each IP family",
            ),
            (&["x"], "must be a valid CIDR value"),
        ] {
            let message = network(cidrs).validate().message();
            assert!(message.contains(want), "{cidrs:?}: {message}");
        }
        let old = network(&["10.43.0.0/16"]);
        assert!(
            network(&["10.43.0.0/16", "fd00::/112"])
                .validate_update(&old)
                .is_empty()
        );
        assert!(
            network(&["10.44.0.0/16"])
                .validate_update(&old)
                .message()
                .contains("field is immutable")
        );
    }
}
