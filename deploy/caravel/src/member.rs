//! `caravel member`: the servers that agree, over the cluster's own service.

use crate::cli::{AdminArgs, MemberCommand, Output};
use crate::token;
use anyhow::Context as _;
use caravel_auth::join::Scope;
use caravel_client::{Kubeconfig, grpc};
use caravel_rpc::cluster::v1::cluster_client::ClusterClient;
use caravel_rpc::cluster::v1::member::Role;
use caravel_rpc::cluster::v1::{
    Member, MembersRequest, MembersResponse, PromoteMemberRequest, RemoveMemberRequest,
    TransferLeadershipRequest,
};
use serde_json::json;
use tonic::transport::Channel;

pub async fn run(command: MemberCommand) -> anyhow::Result<()> {
    match command {
        MemberCommand::List { admin, output } => {
            let (_, mut client) = connect(&admin).await?;
            let members = members(&mut client).await?;
            match output {
                Output::Table => print!("{}", table(&members)),
                Output::Json => println!("{:#}", document(&members)),
            }
        }
        MemberCommand::Add { admin, ttl_hours } => {
            let (kubeconfig, mut client) = connect(&admin).await?;
            let token = token::make(&admin, Scope::Server, ttl_hours, "for a new server").await?;
            let members = members(&mut client).await?;
            let urls: Vec<&str> = voters(&members).map(|one| one.api_url.as_str()).collect();
            let urls = match urls.is_empty() {
                true => kubeconfig.server.clone(),
                false => urls.join(","),
            };
            println!("caravel server --join {urls} --token {token}");
            eprintln!(
                "Run this on the new machine; it is good for {ttl_hours} h, once or more often."
            );
        }
        MemberCommand::Remove { admin, server } => {
            let (_, mut client) = connect(&admin).await?;
            let id = find(&members(&mut client).await?, &server)?;
            client
                .remove_member(RemoveMemberRequest { id })
                .await
                .map_err(|status| refused(&status))?;
            println!("server {id} is removed");
        }
        MemberCommand::Promote { admin, server } => {
            let (_, mut client) = connect(&admin).await?;
            let id = find(&members(&mut client).await?, &server)?;
            client
                .promote_member(PromoteMemberRequest { id })
                .await
                .map_err(|status| refused(&status))?;
            println!("server {id} has a vote");
        }
        MemberCommand::TransferLeadership { admin, server } => {
            let (_, mut client) = connect(&admin).await?;
            let to = match server {
                Some(server) => find(&members(&mut client).await?, &server)?,
                None => 0,
            };
            let answer = client
                .transfer_leadership(TransferLeadershipRequest { to })
                .await
                .map_err(|status| refused(&status))?;
            println!("server {} leads", answer.into_inner().leader);
        }
    }
    Ok(())
}

pub fn kubeconfig(admin: &AdminArgs) -> anyhow::Result<Kubeconfig> {
    let path = admin.kubeconfig.display();
    let text = std::fs::read_to_string(&admin.kubeconfig)
        .with_context(|| format!("read {path} (run this on a server, or give --kubeconfig)"))?;
    Kubeconfig::parse(&text).with_context(|| format!("{path}"))
}

/// Is it a server of the cluster now?
pub fn is_there(member: &Member) -> bool {
    matches!(member.role(), Role::Voter | Role::Learner)
}

pub async fn connect(admin: &AdminArgs) -> anyhow::Result<(Kubeconfig, ClusterClient<Channel>)> {
    let kubeconfig = kubeconfig(admin)?;
    let channel = grpc::channel(&kubeconfig.config()).await?;
    Ok((kubeconfig, ClusterClient::new(channel)))
}

async fn members(client: &mut ClusterClient<Channel>) -> anyhow::Result<MembersResponse> {
    let answer = client.members(MembersRequest {}).await;
    Ok(answer.map_err(|status| refused(&status))?.into_inner())
}

pub fn refused(status: &tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{} ({:?})", status.message(), status.code())
}

fn voters(members: &MembersResponse) -> impl Iterator<Item = &Member> {
    members
        .members
        .iter()
        .filter(|member| member.role() == Role::Voter)
}

/// By number or name; of several of one name, the one that is not removed.
fn find(members: &MembersResponse, server: &str) -> anyhow::Result<u64> {
    let number: Option<u64> = server.parse().ok();
    members
        .members
        .iter()
        .filter(|member| member.role() != Role::Removed)
        .find(|member| Some(member.id) == number || member.name == server)
        .map(|member| member.id)
        .with_context(|| format!("there is no server {server:?}; `caravel member list` shows them"))
}

fn role(member: &Member) -> &'static str {
    match member.role() {
        Role::Voter => "voter",
        Role::Learner => "learner",
        Role::Invited => "invited",
        Role::Removed => "removed",
        Role::Unspecified => "unknown",
    }
}

fn table(members: &MembersResponse) -> String {
    let mut text = format!(
        "{:<4} {:<16} {:<8} {:<7} {:<22} {:<8} {:<10} API\n",
        "ID", "NAME", "ROLE", "LEADER", "PEERS", "LAG", "ANSWERED"
    );
    for member in &members.members {
        let known = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        text.push_str(&format!(
            "{:<4} {:<16} {:<8} {:<7} {:<22} {:<8} {:<10} {}\n",
            member.id,
            member.name,
            role(member),
            if members.leader == member.id {
                "yes"
            } else {
                ""
            },
            member.peer_address,
            known(member.lag.map(|lag| lag.to_string())),
            known(member.silent_ms.map(|ms| format!("{ms} ms ago"))),
            member.api_url,
        ));
    }
    text
}

fn document(members: &MembersResponse) -> serde_json::Value {
    let all = members.members.iter().map(|member| {
        json!({
            "id": member.id,
            "name": member.name,
            "role": role(member),
            "leader": members.leader == member.id,
            "peerAddress": member.peer_address,
            "apiURL": member.api_url,
            "lag": member.lag,
            "silentMilliseconds": member.silent_ms,
            "supportsLevel": member.supports,
        })
    });
    json!({
        "cluster": members.cluster,
        "leader": members.leader,
        "term": members.term,
        "level": members.level,
        "members": all.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_found_by_number_or_name() {
        let member = |id: u64, name: &str, role: Role| Member {
            id,
            name: name.into(),
            role: role.into(),
            ..Member::default()
        };
        let members = MembersResponse {
            members: vec![
                member(1, "a", Role::Voter),
                member(2, "b", Role::Removed),
                member(3, "b", Role::Learner),
            ],
            leader: 1,
            ..MembersResponse::default()
        };
        assert_eq!(find(&members, "1").unwrap(), 1);
        assert_eq!(find(&members, "b").unwrap(), 3);
        assert!(find(&members, "2").is_err());
        assert!(table(&members).lines().nth(1).unwrap().contains("yes"));
    }
}
