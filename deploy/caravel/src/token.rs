//! `caravel token`: join tokens, kept by the cluster as hashed Secrets.

use crate::cli::{AdminArgs, TokenCommand, TokenRole};
use anyhow::{Context as _, anyhow, bail};
use caravel_auth::join::{self, SECRET_NAMESPACE, SECRET_TYPE, Scope, StoredToken};
use caravel_client::{Kubeconfig, connect};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use std::time::{Duration, SystemTime};

/// An election takes a second or two.
const WITHIN: Duration = Duration::from_secs(20);

pub async fn run(command: TokenCommand) -> anyhow::Result<()> {
    match command {
        TokenCommand::Create {
            admin,
            role,
            ttl_hours,
            description,
        } => {
            let scope = match role {
                TokenRole::Node => Scope::Node,
                TokenRole::Server => Scope::Server,
            };
            println!("{}", make(&admin, scope, ttl_hours, &description).await?);
        }
        TokenCommand::List { admin } => {
            let (_, secrets) = admin_api(&admin).await?;
            let params = ListParams::default().fields(&format!("type={SECRET_TYPE}"));
            let all = answered(secrets.list(&params))
                .await?
                .context("list join tokens")?;
            println!("{:<14} {:<7} {:<20} DESCRIPTION", "ID", "ROLE", "EXPIRES");
            for token in all.iter().filter_map(StoredToken::from_secret) {
                let expires = token.expires.map_or_else(
                    || "never".to_owned(),
                    |at| format!("in {} min", remaining(at) / 60),
                );
                let role = token.scope.to_string();
                println!(
                    "{:<14} {role:<7} {expires:<20} {}",
                    token.id, token.description
                );
            }
        }
        TokenCommand::Delete { admin, id } => {
            let (_, secrets) = admin_api(&admin).await?;
            let (name, params) = (join::secret_name(&id), DeleteParams::default());
            match answered(secrets.delete(&name, &params)).await? {
                Err(kube::Error::Api(status)) if status.code == 404 => {
                    bail!("there is no join token {id:?}; `caravel token list` shows them")
                }
                done => drop(done.with_context(|| format!("revoke the join token {id:?}"))?),
            }
            println!("revoked the join token {id}");
        }
    }
    Ok(())
}

/// The client asks servers without a majority again and again, for minutes.
async fn answered<T>(asked: impl Future<Output = T>) -> anyhow::Result<T> {
    tokio::time::timeout(WITHIN, asked).await.map_err(|_| {
        anyhow!(
            "no server answered within {} s, or none is in touch with a majority of the servers; `caravel doctor` says more",
            WITHIN.as_secs()
        )
    })
}

/// Makes a token for the cluster of this kubeconfig.
pub async fn make(
    admin: &AdminArgs,
    scope: Scope,
    ttl_hours: u64,
    description: &str,
) -> anyhow::Result<String> {
    let (kubeconfig, secrets) = admin_api(admin).await?;
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let expires = (ttl_hours > 0).then(|| now + ttl_hours * 3600);
    let hash = caravel_auth::certificate::hash_of_first(&kubeconfig.ca)
        .context("the kubeconfig holds no CA certificate")?;
    let (token, stored) = join::create(&hash, scope, expires, description);
    let secret = stored.to_secret()?;
    answered(secrets.create(&PostParams::default(), &secret))
        .await?
        .context("keep the join token")?;
    Ok(token.to_string())
}

pub async fn admin_api(admin: &AdminArgs) -> anyhow::Result<(Kubeconfig, Api<Secret>)> {
    let path = admin.kubeconfig.display();
    let text = std::fs::read_to_string(&admin.kubeconfig)
        .with_context(|| format!("read {path} (run this on a server, or give --kubeconfig)"))?;
    let kubeconfig = Kubeconfig::parse(&text).with_context(|| format!("{path}"))?;
    let client = connect::connect(&kubeconfig.config()).await?;
    Ok((kubeconfig, Api::namespaced(client, SECRET_NAMESPACE)))
}

fn remaining(at: u64) -> u64 {
    at.saturating_sub(
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs(),
    )
}
