//! Who the container's process runs as. Names are looked up in the image's own `/etc/passwd` and
//! `/etc/group`, never in the machine's.
//! Upstream: containerd `oci.WithUser`, `WithAdditionalGIDs`; a uid without entry gets gid 0.

use std::collections::BTreeSet;

use crate::spec::UserSpec;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub additional: Vec<u32>,
    pub home: Option<String>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UserError {
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoUser(String),
    #[error("unable to find group {0}: no matching entries in group file")]
    NoGroup(String),
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Account {
            name,
            uid,
            gid,
            home: fields.nth(1).unwrap_or(""),
        })
    })
}

/// name, gid, members
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or("")))
    })
}

pub fn resolve(spec: &UserSpec, passwd: &str, group: &str) -> Result<Identity, UserError> {
    let (image_user, image_group) = match spec.image.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (spec.image.as_str(), None),
    };
    let account = match spec.uid {
        Some(uid) => accounts(passwd)
            .find(|account| account.uid == uid)
            .ok_or(uid),
        None if image_user.is_empty() => accounts(passwd).find(|account| account.uid == 0).ok_or(0),
        None => match accounts(passwd).find(|account| account.name == image_user) {
            Some(account) => Ok(account),
            None => {
                let uid = image_user
                    .parse()
                    .map_err(|_| UserError::NoUser(image_user.to_owned()))?;
                accounts(passwd)
                    .find(|account| account.uid == uid)
                    .ok_or(uid)
            }
        },
    };
    let (uid, primary, name, home) = match &account {
        Ok(account) => (
            account.uid,
            account.gid,
            Some(account.name),
            Some(account.home.to_owned()),
        ),
        Err(uid) => (*uid, 0, None, None),
    };
    let gid = match (spec.gid, image_group) {
        (Some(gid), _) => gid,
        // The image's group belongs to the image's user only.
        (None, Some(wanted)) if spec.uid.is_none() => {
            match groups(group).find(|(name, ..)| *name == wanted) {
                Some((_, gid, _)) => gid,
                None => wanted
                    .parse()
                    .map_err(|_| UserError::NoGroup(wanted.to_owned()))?,
            }
        }
        _ => primary,
    };
    let mut additional: BTreeSet<u32> = spec.supplemental.iter().copied().collect();
    if let Some(name) = name.filter(|_| !spec.strict_groups) {
        additional.extend(
            groups(group)
                .filter(|(_, _, members)| members.split(',').any(|m| m == name))
                .map(|(_, gid, _)| gid),
        );
    }
    // The primary group is always part of the set (CVE-2023-25173).
    additional.insert(gid);
    Ok(Identity {
        uid,
        gid,
        additional: additional.into_iter().collect(),
        home: home.filter(|h| !h.is_empty()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nnginx:x:101:102::/var/nginx:/sbin/nologin\nbroken\n";
    const GROUP: &str = "root:x:0:\nnginx:x:102:\ntape:x:26:nginx,root\nweb:x:33:\n";

    #[test]
    fn cases() {
        let spec = |image: &str, uid, gid| UserSpec {
            image: image.into(),
            uid,
            gid,
            ..UserSpec::default()
        };
        for (spec, uid, gid, additional) in [
            (spec("", None, None), 0, 0, vec![0, 26]),
            (spec("nginx", None, None), 101, 102, vec![26, 102]),
            (spec("nginx:web", None, None), 101, 33, vec![26, 33]),
            (spec("1000", None, None), 1000, 0, vec![0]),
            (spec("1000:1001", None, None), 1000, 1001, vec![1001]),
            (spec("nginx:web", Some(0), None), 0, 0, vec![0, 26]),
            (spec("nginx", Some(5), Some(6)), 5, 6, vec![6]),
        ] {
            let got = resolve(&spec, PASSWD, GROUP).unwrap();
            assert_eq!(
                (got.uid, got.gid, got.additional),
                (uid, gid, additional),
                "{spec:?}"
            );
        }
        assert_eq!(
            resolve(&spec("who", None, None), PASSWD, GROUP),
            Err(UserError::NoUser("who".into()))
        );
        assert_eq!(
            resolve(&spec("root:x", None, None), PASSWD, GROUP),
            Err(UserError::NoGroup("x".into()))
        );
        let strict = UserSpec {
            strict_groups: true,
            supplemental: vec![7],
            ..spec("nginx", None, None)
        };
        assert_eq!(
            resolve(&strict, PASSWD, GROUP).unwrap().additional,
            [7, 102]
        );
    }
}
