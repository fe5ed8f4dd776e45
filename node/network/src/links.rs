//! Links, addresses and routes of the current network namespace, by netlink.
//!
//! Every function is idempotent: what is already as asked is left alone.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::path::Path;

use futures::TryStreamExt;
use ipnet::Ipv4Net;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteProtocol, RouteScope};
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
};

use crate::routes::{PROTOCOL, PeerNode};

/// A netlink operation that failed, and what it was for.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The kernel refused.
    #[error("{doing}: {source}")]
    Netlink {
        /// What was tried, on what.
        doing: String,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
    /// A namespace or socket could not be opened.
    #[error("{doing}: {source}")]
    Io {
        /// What was tried, on what.
        doing: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A link that must be there is not.
    #[error("there is no link {0}")]
    NoLink(String),
}

trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, LinkError>;
}
impl<T> Doing<T> for Result<T, rtnetlink::Error> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, LinkError> {
        self.map_err(|source| LinkError::Netlink {
            doing: what(),
            source,
        })
    }
}
impl<T> Doing<T> for std::io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, LinkError> {
        self.map_err(|source| LinkError::Io {
            doing: what(),
            source,
        })
    }
}

/// A netlink socket of the namespace it was opened in.
#[derive(Clone)]
pub struct Links {
    handle: Handle,
}

fn exists<T>(result: Result<T, rtnetlink::Error>, code: i32) -> Result<(), rtnetlink::Error> {
    match result {
        Ok(_) => Ok(()),
        Err(rtnetlink::Error::NetlinkError(e)) if e.raw_code() == -code => Ok(()),
        Err(e) => Err(e),
    }
}

impl Links {
    /// Opens a socket in the calling thread's network namespace. The connection's task ends when the
    /// last clone is dropped.
    ///
    /// # Errors
    /// When the socket cannot be opened.
    pub fn open() -> Result<Self, LinkError> {
        let (connection, handle, _) =
            rtnetlink::new_connection().doing(|| "open a netlink socket".into())?;
        crate::tasks::drive(connection);
        Ok(Self { handle })
    }

    /// The index of the link, if it is there.
    pub async fn index(&self, name: &str) -> Result<Option<u32>, LinkError> {
        match self
            .handle
            .link()
            .get()
            .match_name(name.to_owned())
            .execute()
            .try_next()
            .await
        {
            Ok(link) => Ok(link.map(|l| l.header.index)),
            Err(rtnetlink::Error::NetlinkError(e)) if e.raw_code() == -libc::ENODEV => Ok(None),
            Err(e) => Err(e).doing(|| format!("look up link {name}")),
        }
    }

    async fn must_index(&self, name: &str) -> Result<u32, LinkError> {
        self.index(name)
            .await?
            .ok_or_else(|| LinkError::NoLink(name.to_owned()))
    }

    /// Creates the bridge with a fixed hardware address (pods remember it as their gateway's) and its IP.
    pub async fn ensure_bridge(
        &self,
        name: &str,
        address: Ipv4Net,
        mtu: u32,
    ) -> Result<u32, LinkError> {
        if self.index(name).await?.is_none() {
            let [a, b, c, d] = address.addr().octets();
            let bridge = LinkBridge::new(name)
                .address(vec![0x02, 0xca, a, b, c, d])
                .mtu(mtu)
                .build();
            exists(self.handle.link().add(bridge).execute().await, libc::EEXIST)
                .doing(|| format!("create bridge {name}"))?;
        }
        let index = self.must_index(name).await?;
        self.add_address(index, address).await?;
        self.set(LinkUnspec::new_with_index(index).up(), || {
            format!("bring up {name}")
        })
        .await?;
        Ok(index)
    }

    async fn set(
        &self,
        change: LinkMessageBuilder<LinkUnspec>,
        what: impl FnOnce() -> String,
    ) -> Result<(), LinkError> {
        self.handle
            .link()
            .set(change.build())
            .execute()
            .await
            .doing(what)
    }

    /// Adds an address to a link.
    pub async fn add_address(&self, index: u32, address: Ipv4Net) -> Result<(), LinkError> {
        let add = self
            .handle
            .address()
            .add(index, IpAddr::V4(address.addr()), address.prefix_len())
            .execute()
            .await;
        exists(add, libc::EEXIST).doing(|| format!("add address {address}"))
    }

    /// Adds an address that only this machine answers to (on the loopback link).
    pub async fn add_local_address(&self, address: Ipv4Addr) -> Result<(), LinkError> {
        let lo = self.must_index("lo").await?;
        self.add_address(lo, Ipv4Net::from(address)).await
    }

    /// Creates a veth pair: `name` here on the bridge, `eth0` in the namespace at `netns`.
    pub async fn ensure_veth(
        &self,
        name: &str,
        bridge: u32,
        netns: &Path,
        mtu: u32,
    ) -> Result<(), LinkError> {
        if self.index(name).await?.is_none() {
            let file = std::fs::File::open(netns)
                .doing(|| format!("open namespace {}", netns.display()))?;
            let peer = LinkMessageBuilder::<LinkUnspec>::new()
                .name("eth0")
                .mtu(mtu)
                .setns_by_fd(file.as_raw_fd())
                .build();
            let pair = LinkVeth::new(name, "eth0")
                .mtu(mtu)
                .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
                .build();
            exists(self.handle.link().add(pair).execute().await, libc::EEXIST)
                .doing(|| format!("create veth {name}"))?;
        }
        let index = self.must_index(name).await?;
        self.set(
            LinkUnspec::new_with_index(index).controller(bridge).up(),
            || format!("put {name} on the bridge"),
        )
        .await
    }

    /// Inside a pod: loopback and `eth0` up, its /32 address, and everything by way of `gateway`.
    pub async fn configure_pod(
        &self,
        address: Ipv4Addr,
        gateway: Ipv4Addr,
    ) -> Result<(), LinkError> {
        let lo = self.must_index("lo").await?;
        self.set(LinkUnspec::new_with_index(lo).up(), || "bring up lo".into())
            .await?;
        let eth0 = self.must_index("eth0").await?;
        self.add_address(eth0, Ipv4Net::from(address)).await?;
        self.set(LinkUnspec::new_with_index(eth0).up(), || {
            "bring up eth0".into()
        })
        .await?;
        let onlink = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(gateway, 32)
            .output_interface(eth0)
            .scope(RouteScope::Link)
            .build();
        exists(
            self.handle.route().add(onlink).execute().await,
            libc::EEXIST,
        )
        .doing(|| format!("route to gateway {gateway}"))?;
        let default = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(Ipv4Addr::UNSPECIFIED, 0)
            .gateway(gateway)
            .build();
        exists(
            self.handle.route().add(default).execute().await,
            libc::EEXIST,
        )
        .doing(|| format!("default route by {gateway}"))
    }

    /// Removes a link; one that is not there is no error.
    pub async fn remove(&self, name: &str) -> Result<(), LinkError> {
        let Some(index) = self.index(name).await? else {
            return Ok(());
        };
        exists(self.handle.link().del(index).execute().await, libc::ENODEV)
            .doing(|| format!("remove link {name}"))
    }

    /// Names of all links that begin with `prefix`.
    pub async fn names(&self, prefix: &str) -> Result<Vec<String>, LinkError> {
        let links: Vec<_> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .doing(|| "list links".into())?;
        Ok(links
            .into_iter()
            .flat_map(|l| l.attributes)
            .filter_map(|a| match a {
                LinkAttribute::IfName(name) if name.starts_with(prefix) => Some(name),
                _ => None,
            })
            .collect())
    }

    /// Our own routes to other nodes' pods.
    pub async fn peer_routes(&self) -> Result<BTreeMap<Ipv4Net, Ipv4Addr>, LinkError> {
        let all: Vec<_> = self
            .handle
            .route()
            .get(RouteMessageBuilder::<Ipv4Addr>::new().build())
            .execute()
            .try_collect()
            .await
            .doing(|| "list routes".into())?;
        Ok(all
            .into_iter()
            .filter(|r| r.header.protocol == RouteProtocol::Other(PROTOCOL))
            .filter_map(|route| {
                let mut to = None;
                let mut via = None;
                for attribute in &route.attributes {
                    match attribute {
                        RouteAttribute::Destination(RouteAddress::Inet(ip)) => to = Some(*ip),
                        RouteAttribute::Gateway(RouteAddress::Inet(ip)) => via = Some(*ip),
                        _ => {}
                    }
                }
                Some((
                    Ipv4Net::new(to?, route.header.destination_prefix_length).ok()?,
                    via?,
                ))
            })
            .collect())
    }

    /// Adds or replaces the route to another node's pods.
    pub async fn put_route(&self, peer: &PeerNode) -> Result<(), LinkError> {
        let doing = || format!("route {} by {}", peer.cidr, peer.via);
        self.handle
            .route()
            .add(route_to(peer))
            .replace()
            .execute()
            .await
            .doing(doing)
    }

    /// Removes one of our routes; one that is not there is no error.
    pub async fn remove_route(&self, cidr: Ipv4Net, via: Ipv4Addr) -> Result<(), LinkError> {
        let gone = self
            .handle
            .route()
            .del(route_to(&PeerNode { cidr, via }))
            .execute()
            .await;
        exists(gone, libc::ESRCH).doing(|| format!("remove route {cidr}"))
    }
}

fn route_to(peer: &PeerNode) -> rtnetlink::packet_route::route::RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(peer.cidr.network(), peer.cidr.prefix_len())
        .gateway(peer.via)
        .protocol(RouteProtocol::Other(PROTOCOL))
        .build()
}
