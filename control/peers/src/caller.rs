//! Who speaks: the metadata of every call between servers, and the check of it against certificate, cluster and roster.

use crate::service::removed;
use crate::{roster, tls};
use caravel_store::{Identity, Store};
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

const CLUSTER: &str = "caravel-cluster";
const FROM: &str = "caravel-from";
const INCARNATION: &str = "caravel-incarnation";
const TO: &str = "caravel-to";

/// The other side of a call, as it says; [`Caller::check`] makes sure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    pub cluster: u128,
    pub from: u64,
    /// 0: it has no disk yet, because it is only joining.
    pub incarnation: u64,
    /// Whom it means to speak with.
    pub to: u64,
}

impl Caller {
    /// Puts this into the metadata of a call.
    pub(crate) fn sign<T>(&self, request: &mut Request<T>) {
        let fields = [
            (CLUSTER, format!("{:032x}", self.cluster)),
            (FROM, self.from.to_string()),
            (INCARNATION, format!("{:016x}", self.incarnation)),
            (TO, self.to.to_string()),
        ];
        for (name, value) in fields {
            if let Ok(value) = value.parse() {
                request.metadata_mut().insert(name, value);
            }
        }
    }

    fn read(metadata: &MetadataMap) -> Option<Self> {
        let text = |name: &str| metadata.get(name)?.to_str().ok();
        Some(Self {
            cluster: u128::from_str_radix(text(CLUSTER)?, 16).ok()?,
            from: text(FROM)?.parse().ok()?,
            incarnation: u64::from_str_radix(text(INCARNATION)?, 16).ok()?,
            to: text(TO)?.parse().ok()?,
        })
    }

    /// The caller of a request, if it may speak.
    ///
    /// # Errors
    /// PERMISSION_DENIED or FAILED_PRECONDITION, with the reason.
    pub(crate) fn check<T>(request: &Request<T>, store: &Store) -> Result<Self, Status> {
        let certificates = request.peer_certs();
        let server = certificates
            .as_deref()
            .and_then(|chain| tls::server_of(chain.first()?))
            .ok_or_else(|| Status::permission_denied("the certificate is no server's"))?;
        let caller = Self::read(request.metadata())
            .ok_or_else(|| Status::invalid_argument("the call does not say who speaks"))?;
        if caller.from != server {
            return Err(Status::permission_denied(format!(
                "the certificate is server {server}'s, the call says {}",
                caller.from
            )));
        }
        caller.fits(store.identity())?;
        if caller.incarnation != 0 {
            roster::admits(&store.snapshot(), caller.from, caller.incarnation).map_err(
                |error| match error {
                    roster::RosterError::Removed(_) => {
                        removed(Status::permission_denied(error.to_string()))
                    }
                    other => Status::failed_precondition(other.to_string()),
                },
            )?;
        }
        Ok(caller)
    }

    fn fits(&self, me: Identity) -> Result<(), Status> {
        if self.cluster != me.cluster {
            return Err(Status::failed_precondition(format!(
                "this server belongs to another cluster ({:032x})",
                me.cluster
            )));
        }
        if self.to != 0 && self.to != me.node {
            return Err(Status::failed_precondition(format!(
                "this is server {}, not server {}",
                me.node, self.to
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metadata_says_who_and_to_whom() {
        let caller = Caller {
            cluster: 7 << 100,
            from: 2,
            incarnation: u64::MAX,
            to: 3,
        };
        let mut request = Request::new(());
        caller.sign(&mut request);
        assert_eq!(Caller::read(request.metadata()), Some(caller));
        let me = |cluster, node| Identity {
            cluster,
            node,
            incarnation: 1,
        };
        assert!(caller.fits(me(7 << 100, 3)).is_ok());
        assert!(caller.fits(me(7 << 100, 4)).is_err());
        assert!(caller.fits(me(8, 3)).is_err());
        let joining = Caller { to: 0, ..caller };
        assert!(joining.fits(me(7 << 100, 4)).is_ok());
    }
}
