//! X.509: makes certificate authorities and issues certificates from them.
//!
//! ECDSA P-256 throughout. What a certificate is allowed to say is fixed by its [`Profile`]: of a signing request
//! only the public key is believed. Validity begins five minutes early so that skewed clocks do not refuse it.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

pub const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// kubeadm's: ten years for authorities, one for what they sign.
pub const CA_VALIDITY: Duration = Duration::from_secs(3650 * 24 * 60 * 60);
pub const LEAF_VALIDITY: Duration = Duration::from_secs(365 * 24 * 60 * 60);
const SKEW: Duration = Duration::from_secs(300);

#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("cannot {what}: {source}")]
    Make {
        what: &'static str,
        source: rcgen::Error,
    },
    #[error("the certificate signing request is not acceptable: {0}")]
    Request(String),
    #[error("{0} holds no certificate in PEM form")]
    NoPem(&'static str),
}

fn while_(what: &'static str) -> impl FnOnce(rcgen::Error) -> CertificateError {
    move |source| CertificateError::Make { what, source }
}

/// A certificate with the key that was made for it.
#[derive(Clone, Debug)]
pub struct Issued {
    pub cert_pem: String,
    pub key_pem: String,
}

/// What a leaf certificate says.
#[derive(Clone, Debug)]
pub enum Profile {
    /// A user: CN = name, O = group.
    Client { name: String, group: Option<String> },
    /// A server answering under these names and addresses.
    Server {
        name: String,
        group: Option<String>,
        dns: Vec<String>,
        ips: Vec<IpAddr>,
    },
    /// A server that is also a client of its like (a control plane to its nodes).
    Peer {
        name: String,
        group: Option<String>,
        dns: Vec<String>,
        ips: Vec<IpAddr>,
    },
}

/// An authority that can sign.
pub struct Ca {
    cert_pem: String,
    key_pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ca").finish_non_exhaustive()
    }
}

impl Ca {
    pub fn create(name: &str, now: SystemTime) -> Result<Self, CertificateError> {
        let key = KeyPair::generate().map_err(while_("make an authority's key"))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(name, None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
        ];
        validity(&mut params, now, CA_VALIDITY);
        let cert = params
            .self_signed(&key)
            .map_err(while_("sign an authority's certificate"))?;
        Self::load(&cert.pem(), &key.serialize_pem())
    }

    pub fn load(cert_pem: &str, key_pem: &str) -> Result<Self, CertificateError> {
        let key = KeyPair::from_pem(key_pem).map_err(while_("read an authority's key"))?;
        let der = parse_pem(cert_pem)
            .into_iter()
            .next()
            .ok_or(CertificateError::NoPem("the authority's certificate"))?;
        let issuer = Issuer::from_ca_cert_der(&der, key)
            .map_err(while_("read an authority's certificate"))?;
        Ok(Self {
            cert_pem: cert_pem.to_owned(),
            key_pem: key_pem.to_owned(),
            der,
            issuer,
        })
    }

    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    pub(crate) fn key_pem(&self) -> &str {
        &self.key_pem
    }

    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    pub fn issue(
        &self,
        profile: &Profile,
        now: SystemTime,
        ttl: Duration,
    ) -> Result<Issued, CertificateError> {
        let key = KeyPair::generate().map_err(while_("make a key"))?;
        let cert = params(profile, now, ttl)?
            .signed_by(&key, &self.issuer)
            .map_err(while_("sign a certificate"))?;
        Ok(Issued {
            cert_pem: cert.pem(),
            key_pem: key.serialize_pem(),
        })
    }

    /// Signs the key of a request whose signature proves that the sender has it; its subject and extensions are ignored.
    pub fn sign_request(
        &self,
        csr_pem: &str,
        profile: &Profile,
        now: SystemTime,
        ttl: Duration,
    ) -> Result<String, CertificateError> {
        let mut request = CertificateSigningRequestParams::from_pem(csr_pem)
            .map_err(|e| CertificateError::Request(e.to_string()))?;
        request.params = params(profile, now, ttl)?;
        Ok(request
            .signed_by(&self.issuer)
            .map_err(while_("sign a request"))?
            .pem())
    }
}

/// A new key and a request for it: what a joining node sends.
pub fn signing_request(name: &str) -> Result<(String, String), CertificateError> {
    let key = KeyPair::generate().map_err(while_("make a key"))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(name, None);
    let request = params
        .serialize_request(&key)
        .map_err(while_("make a signing request"))?;
    Ok((
        key.serialize_pem(),
        request.pem().map_err(while_("encode a signing request"))?,
    ))
}

/// The certificates of a PEM text, in order; anything else in it is skipped.
pub fn parse_pem(text: &str) -> Vec<CertificateDer<'static>> {
    use rustls_pki_types::pem::PemObject as _;
    CertificateDer::pem_slice_iter(text.as_bytes())
        .filter_map(Result::ok)
        .collect()
}

fn params(
    profile: &Profile,
    now: SystemTime,
    ttl: Duration,
) -> Result<CertificateParams, CertificateError> {
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    let none: (&[String], &[IpAddr]) = (&[], &[]);
    let (name, group, (dns, ips), uses) = match profile {
        Profile::Client { name, group } => (name, group, none, vec![ClientAuth]),
        Profile::Server {
            name,
            group,
            dns,
            ips,
        } => (
            name,
            group,
            (dns.as_slice(), ips.as_slice()),
            vec![ServerAuth],
        ),
        Profile::Peer {
            name,
            group,
            dns,
            ips,
        } => (
            name,
            group,
            (dns.as_slice(), ips.as_slice()),
            vec![ServerAuth, ClientAuth],
        ),
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(name, group.as_deref());
    for dns in dns {
        let dns = dns.clone().try_into().map_err(while_("use a DNS name"))?;
        params.subject_alt_names.push(SanType::DnsName(dns));
    }
    params
        .subject_alt_names
        .extend(ips.iter().map(|ip| SanType::IpAddress(*ip)));
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    params.extended_key_usages = uses;
    params.use_authority_key_identifier_extension = true;
    validity(&mut params, now, ttl);
    Ok(params)
}

fn subject(name: &str, group: Option<&str>) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    if let Some(group) = group {
        subject.push(DnType::OrganizationName, group);
    }
    subject.push(DnType::CommonName, name);
    subject
}

fn validity(params: &mut CertificateParams, now: SystemTime, ttl: Duration) {
    params.not_before = (now - SKEW).into();
    params.not_after = (now + ttl).into();
    let mut serial: [u8; 16] = rand::random();
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
}

/// SHA-256 (hex) of the first certificate of a PEM text: how join tokens name a cluster CA.
pub fn hash_of_first(pem: &str) -> Option<String> {
    use sha2::Digest as _;
    parse_pem(pem)
        .first()
        .map(|der| hex::encode(sha2::Sha256::digest(der)))
}
