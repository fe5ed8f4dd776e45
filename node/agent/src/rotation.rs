//! When a certificate of this node is to be exchanged for a new one. Pure.
//!
//! Between seven and nine tenths of its life, as pkg/kubelet/certificate does; where in between is the certificate's
//! own chance, so that nodes that joined together do not come back together, and a restart changes nothing.

use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

#[derive(Debug, thiserror::Error)]
#[error("the certificate cannot be read: {0}")]
pub struct Unreadable(String);

/// Of the first certificate in `pem`.
///
/// # Errors
/// What is no certificate.
pub fn due(pem: &str) -> Result<SystemTime, Unreadable> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| Unreadable(error.to_string()))?;
    let (_, certificate) =
        X509Certificate::from_der(&der).map_err(|error| Unreadable(error.to_string()))?;
    let seconds = |time: i64| u64::try_from(time).unwrap_or(0);
    let validity = certificate.validity();
    let from = seconds(validity.not_before.timestamp());
    let life = seconds(validity.not_after.timestamp()).saturating_sub(from);
    let chance = certificate.raw_serial().last().copied().unwrap_or(0);
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(from + share(life, chance)))
}

/// Seven tenths of a life, and up to two more.
fn share(life: u64, chance: u8) -> u64 {
    life / 10 * 7 + life / 10 * 2 * u64::from(chance) / 255
}

#[cfg(test)]
mod tests {
    use super::*;
    use caravel_auth::Authority;

    #[test]
    fn between_seven_and_nine_tenths() {
        for (chance, tenths) in [(0, 700), (128, 800), (255, 900)] {
            assert_eq!(share(1000, chance), tenths, "{chance}");
        }
        let day = Duration::from_secs(86_400);
        let authority = Authority::create("https://x").unwrap();
        let issued = authority.issue_client("system:node:a", None).unwrap();
        let at = due(&issued.cert_pem).unwrap();
        let wait = at.duration_since(SystemTime::now()).unwrap();
        assert!(day * 254 < wait && wait < day * 330, "{wait:?} of a year");
        assert_eq!(due(&issued.cert_pem).unwrap(), at, "the same at each start");
        assert!(due("nonsense").is_err());
    }
}
