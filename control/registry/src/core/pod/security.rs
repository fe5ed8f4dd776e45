//! What is wrong with the security contexts of pods and containers.
//!
//! Follows `ValidateSecurityContext` and `validatePodSpecSecurityContext` of `pkg/apis/core/validation`. Windows' options
//! are refused: no node runs it.

use k8s_openapi::api::core::v1::{AppArmorProfile, PodSpec, SeccompProfile, SecurityContext};
use serde_json::json;

use super::volume;
use crate::found::{At, Found};
use crate::names;

const PROFILES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];

pub fn validate_pod(found: &mut Found, spec: &PodSpec, at: &At) {
    let Some(context) = &spec.security_context else {
        return;
    };
    let context_at = at.child("securityContext");
    for (name, id) in [
        ("fsGroup", context.fs_group),
        ("runAsUser", context.run_as_user),
        ("runAsGroup", context.run_as_group),
    ] {
        if let Some(id) = id {
            found.number_faults(&context_at.child(name), id, names::unix_id(id));
        }
    }
    for (index, group) in context.supplemental_groups.iter().flatten().enumerate() {
        found.number_faults(
            &context_at.child("supplementalGroups").index(index),
            *group,
            names::unix_id(*group),
        );
    }
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        found.invalid(
            &context_at.child("shareProcessNamespace"),
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        );
    }
    let mut seen = std::collections::BTreeSet::new();
    for (index, sysctl) in context.sysctls.iter().flatten().enumerate() {
        let list = context_at.child("sysctls");
        let item = list.index(index);
        let at = item.child("name");
        if sysctl.name.is_empty() {
            found.required(&at, "");
        } else if !is_sysctl(&sysctl.name) {
            found.invalid(
                &at,
                sysctl.name.as_str(),
                "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
            );
        } else if !seen.insert(sysctl.name.as_str()) {
            found.duplicate(&at, sysctl.name.as_str());
        }
        let name = sysctl.name.replace('/', ".");
        if spec.host_network == Some(true) && name.starts_with("net.") {
            found.invalid(
                &at,
                sysctl.name.as_str(),
                "may not be specified when 'hostNetwork' is true",
            );
        } else if spec.host_ipc == Some(true)
            && (["kernel.shm", "kernel.msg", "fs.mqueue."]
                .iter()
                .any(|prefix| name.starts_with(prefix))
                || name == "kernel.sem")
        {
            found.invalid(
                &at,
                sysctl.name.as_str(),
                "may not be specified when 'hostIPC' is true",
            );
        }
    }
    for (name, value, supported) in [
        (
            "fsGroupChangePolicy",
            &context.fs_group_change_policy,
            &["Always", "OnRootMismatch"],
        ),
        (
            "supplementalGroupsPolicy",
            &context.supplemental_groups_policy,
            &["Merge", "Strict"],
        ),
        (
            "seLinuxChangePolicy",
            &context.se_linux_change_policy,
            &["MountOption", "Recursive"],
        ),
    ] {
        if let Some(value) = value.as_deref().filter(|value| !supported.contains(value)) {
            found.not_supported(&context_at.child(name), value, supported);
        }
    }
    if let Some(profile) = &context.seccomp_profile {
        seccomp(found, profile, &context_at.child("seccompProfile"));
    }
    if let Some(profile) = &context.app_armor_profile {
        app_armor(found, profile, &context_at.child("appArmorProfile"));
    }
    if context.windows_options.is_some() {
        found.forbidden(
            &context_at.child("windowsOptions"),
            "windows options cannot be set for a linux pod",
        );
    }
}

/// Host namespaces make no sense for a pod with users of its own.
pub fn validate_host_users(found: &mut Found, spec: &PodSpec, at: &At) {
    if spec.host_users != Some(false) {
        return;
    }
    for (name, value) in [
        ("hostNetwork", spec.host_network),
        ("HostPID", spec.host_pid),
        ("HostIPC", spec.host_ipc),
    ] {
        if value == Some(true) {
            found.forbidden(&at.child(name), "when `pod.Spec.HostUsers` is false");
        }
    }
}

fn is_sysctl(name: &str) -> bool {
    let edge = |byte: Option<&u8>| {
        byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    name.len() <= 253
        && name.split(['.', '/']).all(|part| {
            edge(part.as_bytes().first())
                && edge(part.as_bytes().last())
                && part.bytes().all(|byte| {
                    byte.is_ascii_lowercase()
                        || byte.is_ascii_digit()
                        || matches!(byte, b'-' | b'_')
                })
        })
}

pub fn validate_container(found: &mut Found, context: &SecurityContext, host_users: bool, at: &At) {
    for (name, id) in [
        ("runAsUser", context.run_as_user),
        ("runAsGroup", context.run_as_group),
    ] {
        if let Some(id) = id {
            found.number_faults(&at.child(name), id, names::unix_id(id));
        }
    }
    if let Some(mount) = context.proc_mount.as_deref() {
        let at = at.child("procMount");
        if !matches!(mount, "Default" | "Unmasked") {
            found.not_supported(&at, mount, &["Default", "Unmasked"]);
        } else if host_users && mount == "Unmasked" {
            found.invalid(&at, mount, "`hostUsers` must be false to use `Unmasked`");
        }
    }
    if let Some(profile) = &context.seccomp_profile {
        seccomp(found, profile, &at.child("seccompProfile"));
    }
    if context.allow_privilege_escalation == Some(false) {
        if context.privileged == Some(true) {
            found.invalid(
                at,
                json!(context),
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            );
        }
        let added = context
            .capabilities
            .as_ref()
            .and_then(|capabilities| capabilities.add.as_ref());
        if added.is_some_and(|added| added.iter().any(|name| name == "CAP_SYS_ADMIN")) {
            found.invalid(at, json!(context), "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN");
        }
    }
    if let Some(profile) = &context.app_armor_profile {
        app_armor(found, profile, &at.child("appArmorProfile"));
    }
    if context.windows_options.is_some() {
        found.forbidden(
            &at.child("windowsOptions"),
            "windows options cannot be set for a linux pod",
        );
    }
}

fn seccomp(found: &mut Found, profile: &SeccompProfile, at: &At) {
    match profile.type_.as_str() {
        "" => found.required(
            &at.child("type"),
            "type is required when seccompProfile is set",
        ),
        other if !PROFILES.contains(&other) => {
            found.not_supported(&at.child("type"), other, PROFILES)
        }
        _ => {}
    }
    let path_at = at.child("localhostProfile");
    match (
        profile.type_ == "Localhost",
        profile.localhost_profile.as_deref(),
    ) {
        (true, None) => found.required(&path_at, "must be set when seccomp type is Localhost"),
        (true, Some(path)) => volume::local_descending(found, path, &path_at),
        (false, Some(_)) => found.invalid(
            &path_at,
            json!(profile),
            "can only be set when seccomp type is Localhost",
        ),
        (false, None) => {}
    }
}

fn app_armor(found: &mut Found, profile: &AppArmorProfile, at: &At) {
    match profile.type_.as_str() {
        "" => found.required(
            &at.child("type"),
            "type is required when appArmorProfile is set",
        ),
        other if !PROFILES.contains(&other) => {
            found.not_supported(&at.child("type"), other, PROFILES)
        }
        _ => {}
    }
    let name_at = at.child("localhostProfile");
    match (
        profile.type_ == "Localhost",
        profile.localhost_profile.as_deref(),
    ) {
        (true, None | Some("")) => {
            found.required(&name_at, "must be set when AppArmor type is Localhost")
        }
        (true, Some(name)) if name.trim() != name => {
            found.invalid(&name_at, name, "must not be padded with whitespace")
        }
        (false, Some(name)) => found.invalid(
            &name_at,
            name,
            "can only be set when AppArmor type is Localhost",
        ),
        _ => {}
    }
}
