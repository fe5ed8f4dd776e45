//! `caravel kubeconfig`: the administrator's kubeconfig, to be used here or elsewhere.

use crate::cli::KubeconfigArgs;
use anyhow::Context as _;
use caravel_client::Kubeconfig;

pub fn run(args: &KubeconfigArgs) -> anyhow::Result<()> {
    let path = &args.admin.kubeconfig;
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("read {} (run this on a server)", path.display()))?;
    match &args.server {
        None => print!("{text}"),
        Some(server) => print!("{}", Kubeconfig::parse(&text)?.at(server).to_yaml()?),
    }
    Ok(())
}
