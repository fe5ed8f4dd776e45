//! `caravel certificate`: the certificates that the cluster shows and when they end, and the keys that it seals its data with.

use crate::cli::{CertificateCommand, Output};
use crate::member;
use anyhow::{Context as _, bail};
use caravel_client::connect::Credential;
use caravel_client::{Kubeconfig, connect};
use caravel_rpc::cluster::v1::cluster_client::ClusterClient;
use caravel_rpc::cluster::v1::{
    MembersRequest, RotateKeysRequest, SealingRequest, SealingResponse,
};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ListParams};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::json;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;

/// Whoever does not show a certificate by then does not.
const SHOW: Duration = Duration::from_secs(3);
/// The node's own port.
const NODE_PORT: u16 = 10250;
/// How long `rotate-keys` waits for the servers, and how often it asks.
const ROTATED_WITHIN: Duration = Duration::from_secs(600);
const ASK: Duration = Duration::from_millis(500);

/// How long a certificate is good for, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub from: i64,
    pub until: i64,
}

/// Somebody's certificate, or why it was not seen.
pub struct Shown {
    pub whose: String,
    pub span: Result<Span, String>,
}

pub async fn run(command: CertificateCommand) -> anyhow::Result<()> {
    match command {
        CertificateCommand::List { admin, output } => {
            let shown = all(&member::kubeconfig(&admin)?).await;
            match output {
                Output::Table => print!("{}", table(&shown)),
                Output::Json => println!("{:#}", document(&shown)),
            }
        }
        CertificateCommand::Keys { admin, output } => {
            let (_, mut client) = member::connect(&admin).await?;
            let sealing = sealing(&mut client).await?;
            match output {
                Output::Table => print!("{}", keys_table(&sealing)),
                Output::Json => println!("{:#}", keys_document(&sealing)),
            }
        }
        CertificateCommand::RotateKeys { admin, no_wait } => {
            let (_, mut client) = member::connect(&admin).await?;
            let answer = client.rotate_keys(RotateKeysRequest {}).await;
            let key = answer
                .map_err(|status| member::refused(&status))?
                .into_inner()
                .key;
            if !no_wait {
                wait(&mut client, key).await?;
            }
            println!("key {key}");
        }
    }
    Ok(())
}

async fn sealing(client: &mut ClusterClient<Channel>) -> anyhow::Result<SealingResponse> {
    let answer = client.sealing(SealingRequest {}).await;
    Ok(answer
        .map_err(|status| member::refused(&status))?
        .into_inner())
}

/// Waits until every server seals with `key`, or a later one, and needs no other.
async fn wait(client: &mut ClusterClient<Channel>, key: u32) -> anyhow::Result<()> {
    let deadline = Instant::now() + ROTATED_WITHIN;
    let mut said = String::new();
    loop {
        let now = match sealing(client).await {
            Ok(sealing) => progress(&sealing, key),
            Err(error) => Some(format!("{error:#}")),
        };
        let Some(now) = now else { return Ok(()) };
        if Instant::now() > deadline {
            bail!(
                "not done yet: {now}. It goes on by itself; `caravel certificate keys` shows how far it is"
            );
        }
        if now != said {
            eprintln!("{now}");
            said = now;
        }
        sleep(ASK).await;
    }
}

/// What a rotation to `key` still waits for; none: it is done.
fn progress(sealing: &SealingResponse, key: u32) -> Option<String> {
    let named = |pick: &dyn Fn(&caravel_rpc::cluster::v1::MemberSealing) -> bool| -> String {
        let members = sealing.members.iter().filter(|member| pick(member));
        let names: Vec<&str> = members.map(|member| member.name.as_str()).collect();
        names.join(", ")
    };
    if sealing.key < key {
        let silent = named(&|member| !member.reached);
        return Some(match silent.as_str() {
            "" => "the new key is being handed to every server".to_owned(),
            silent => {
                format!("the new key is used once every server holds it; no answer from {silent}")
            }
        });
    }
    let behind = named(&|member| {
        !member.reached || member.key < key || member.resealing || member.holds.len() > 1
    });
    (!behind.is_empty()).then(|| format!("what the old key sealed is sealed again on {behind}"))
}

fn keys_table(sealing: &SealingResponse) -> String {
    let mut text = format!(
        "{:<4} {:<16} {:<5} {:<12} SEALED\n",
        "ID", "NAME", "KEY", "HOLDS"
    );
    for member in &sealing.members {
        let holds: Vec<String> = member.holds.iter().map(u32::to_string).collect();
        let (key, holds, state) = match (member.reached, member.resealing) {
            (false, _) => ("-".to_owned(), "-".to_owned(), "no answer"),
            (true, true) => (
                member.key.to_string(),
                holds.join(","),
                "partly by an older key",
            ),
            (true, false) => (member.key.to_string(), holds.join(","), "all by this key"),
        };
        text.push_str(&format!(
            "{:<4} {:<16} {key:<5} {holds:<12} {state}\n",
            member.id, member.name
        ));
    }
    if sealing.next > 0 {
        text.push_str(&format!("key {} is being handed round\n", sealing.next));
    }
    text
}

fn keys_document(sealing: &SealingResponse) -> serde_json::Value {
    let members = sealing.members.iter().map(|member| {
        json!({
            "id": member.id,
            "name": member.name,
            "reached": member.reached,
            "key": member.key,
            "holds": member.holds,
            "resealing": member.resealing,
        })
    });
    json!({
        "key": sealing.key,
        "next": sealing.next,
        "members": members.collect::<Vec<_>>(),
    })
}

/// The certificates of the administrator, the authority, the servers and the nodes.
pub async fn all(kubeconfig: &Kubeconfig) -> Vec<Shown> {
    let mut shown = own(kubeconfig);
    let config = kubeconfig.config();
    let mut urls = Vec::new();
    match caravel_client::grpc::channel(&config).await {
        Ok(channel) => match ClusterClient::new(channel).members(MembersRequest {}).await {
            Ok(answer) => {
                let members = answer.into_inner().members.into_iter();
                urls.extend(
                    members
                        .filter(member::is_there)
                        .map(|member| (member.name, member.api_url)),
                );
            }
            Err(status) => shown.push(failed("servers", status.message())),
        },
        Err(error) => shown.push(failed("servers", &error.to_string())),
    }
    for (name, url) in urls {
        let span = of_url(&url, &kubeconfig.ca).await;
        shown.push(Shown {
            whose: format!("server {name}"),
            span,
        });
    }
    for (name, address) in nodes(kubeconfig).await {
        let span = match address {
            Some(address) => at(address, NODE_PORT, &kubeconfig.ca).await,
            None => Err("it has no address".to_owned()),
        };
        shown.push(Shown {
            whose: format!("node {name}"),
            span,
        });
    }
    shown
}

/// What the kubeconfig holds.
pub fn own(kubeconfig: &Kubeconfig) -> Vec<Shown> {
    let mut shown = vec![Shown {
        whose: "the cluster's authority".to_owned(),
        span: of_pem(&kubeconfig.ca),
    }];
    if let Credential::Certificate { cert, .. } = &kubeconfig.credential {
        shown.push(Shown {
            whose: format!("user {}", kubeconfig.user),
            span: of_pem(cert),
        });
    }
    shown
}

async fn nodes(kubeconfig: &Kubeconfig) -> Vec<(String, Option<IpAddr>)> {
    let Ok(client) = connect::connect(&kubeconfig.config()).await else {
        return Vec::new();
    };
    let listed = Api::<Node>::all(client).list(&ListParams::default()).await;
    let nodes = listed.map(|list| list.items).unwrap_or_default();
    nodes
        .into_iter()
        .map(|node| {
            (
                node.metadata.name.clone().unwrap_or_default(),
                address(&node),
            )
        })
        .collect()
}

/// Where a node is reached.
pub fn address(node: &Node) -> Option<IpAddr> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let internal = addresses.iter().find(|one| one.type_ == "InternalIP")?;
    internal.address.parse().ok()
}

fn failed(whose: &str, why: &str) -> Shown {
    Shown {
        whose: whose.to_owned(),
        span: Err(why.to_owned()),
    }
}

/// The certificate that a server of this URL shows.
pub async fn of_url(url: &str, ca: &str) -> Result<Span, String> {
    let address = url.strip_prefix("https://").unwrap_or(url);
    let address: std::net::SocketAddr = address
        .parse()
        .map_err(|_| format!("{url} is no address and port"))?;
    at(address.ip(), address.port(), ca).await
}

/// The certificate shown at an address; it must be the cluster's.
pub async fn at(ip: IpAddr, port: u16, ca: &str) -> Result<Span, String> {
    let shown = timeout(SHOW, show(ip, port, ca)).await;
    match shown {
        Ok(Ok(span)) => Ok(span),
        Ok(Err(error)) => Err(format!("{error:#}")),
        Err(_) => Err(format!("no answer within {} s", SHOW.as_secs())),
    }
}

async fn show(ip: IpAddr, port: u16, ca: &str) -> anyhow::Result<Span> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(certificate?)?;
    }
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect((ip, port)).await?;
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(ServerName::from(ip), stream)
        .await?;
    let chain = stream.get_ref().1.peer_certificates();
    let leaf = chain
        .and_then(|chain| chain.first())
        .context("it showed no certificate")?;
    span(leaf)
}

fn of_pem(pem: &str) -> Result<Span, String> {
    let first = CertificateDer::from_pem_slice(pem.as_bytes());
    let first = first.map_err(|error| error.to_string())?;
    span(&first).map_err(|error| error.to_string())
}

fn span(certificate: &[u8]) -> anyhow::Result<Span> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|error| anyhow::anyhow!("the certificate cannot be read: {error}"))?;
    let validity = certificate.validity();
    Ok(Span {
        from: validity.not_before.timestamp(),
        until: validity.not_after.timestamp(),
    })
}

fn when(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |at| at.to_string())
}

fn table(shown: &[Shown]) -> String {
    let now = Timestamp::now().as_second();
    let mut text = format!("{:<28} {:<22} DAYS LEFT\n", "CERTIFICATE", "ENDS");
    for one in shown {
        let (ends, left) = match &one.span {
            Ok(span) => (when(span.until), ((span.until - now) / 86_400).to_string()),
            Err(why) => ("-".to_owned(), why.clone()),
        };
        text.push_str(&format!("{:<28} {ends:<22} {left}\n", one.whose));
    }
    text
}

fn document(shown: &[Shown]) -> serde_json::Value {
    let all = shown.iter().map(|one| match &one.span {
        Ok(span) => {
            json!({ "certificate": one.whose, "begins": when(span.from), "ends": when(span.until) })
        }
        Err(why) => json!({ "certificate": one.whose, "error": why }),
    });
    json!({ "certificates": all.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use caravel_rpc::cluster::v1::MemberSealing;

    #[test]
    fn a_rotation_is_done_when_nobody_needs_the_old_key() {
        let member = |name: &str, key: u32, holds: &[u32], resealing: bool| MemberSealing {
            id: 1,
            name: name.into(),
            reached: key > 0,
            key,
            holds: holds.to_vec(),
            resealing,
        };
        let sealing = |key, members: Vec<MemberSealing>| SealingResponse {
            key,
            next: 0,
            members,
        };
        let cases = [
            (
                sealing(1, vec![member("a", 1, &[1], false)]),
                Some("being handed"),
            ),
            (
                sealing(1, vec![member("b", 0, &[], false)]),
                Some("no answer from b"),
            ),
            (
                sealing(
                    2,
                    vec![member("a", 2, &[1, 2], true), member("b", 2, &[2], false)],
                ),
                Some("again on a"),
            ),
            (sealing(2, vec![member("a", 2, &[2], false)]), None),
        ];
        for (sealing, expected) in cases {
            let said = progress(&sealing, 2);
            match expected {
                Some(expected) => assert!(
                    said.clone().is_some_and(|said| said.contains(expected)),
                    "{said:?}"
                ),
                None => assert_eq!(said, None),
            }
        }
    }
}
