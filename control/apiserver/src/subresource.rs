//! Parts of objects with a URL of their own that are not the status: binding, finalize, eviction, scale, token.
//! Upstream: pkg/registry/core/{pod,namespace,serviceaccount}/storage, pkg/registry/apps/deployment/storage.

use crate::body::Body;
use crate::options::WriteOptions;
use crate::respond;
use crate::server::ApiServer;
use crate::stack::Ask;
use crate::verbs::patch::Patch;
use crate::verbs::{check_depth, json_body, writer};
use crate::views::View;
use crate::write::{Current, DeleteOptions, Part, Target, Writer, Written};
use bytes::Bytes;
use caravel_api::selector::Selector;
use caravel_api::{ApiError, FieldError, FieldErrors, Kind, ObjectName, Path, Row, kinds, time};
use caravel_auth::token::{MAX_TTL, MIN_TTL};
use caravel_auth::{Bound, IdentityView, TokenSpec};
use http::{Response, StatusCode};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestStatus};
use k8s_openapi::api::core::v1::{Binding, Namespace, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Decodes a body that is no stored kind.
pub(crate) async fn decoded<T: DeserializeOwned>(
    ask: &Ask,
    body: Body,
    kind: &str,
) -> Result<T, ApiError> {
    let bytes = json_body(ask, body).await?;
    check_depth(&bytes)?;
    serde_json::from_slice(&bytes).map_err(|error| {
        ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): {error}"
        ))
    })
}

/// Answers with an object that is not stored.
pub(crate) fn shown(
    ask: &Ask,
    status: StatusCode,
    object: &impl Serialize,
) -> Result<Response<Body>, ApiError> {
    let json = serde_json::to_vec(object).map_err(ApiError::internal)?;
    Ok(respond::document(status, Bytes::from(json), ask.accepted))
}

fn success(ask: &Ask, status: StatusCode) -> Response<Body> {
    let body = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": status.as_u16() });
    respond::document(status, Bytes::from(body.to_string()), ask.accepted)
}

/// pods/binding and bindings: the scheduler's decision.
pub(crate) async fn binding(
    api: &ApiServer,
    ask: &Ask,
    row: &'static Row,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let writer = writer(api, ask, "CreateOptions")?;
    let binding: Binding = decoded(ask, body, "Binding").await?;
    let name = if ask.info.name.is_empty() || ask.info.resource == "bindings" {
        binding.metadata.name.clone().unwrap_or_default()
    } else {
        ask.info.name.clone()
    };
    if binding
        .metadata
        .name
        .as_deref()
        .is_some_and(|given| !given.is_empty() && given != name)
    {
        return Err(ApiError::bad_request(
            "name in URL does not match name in Binding object",
        ));
    }
    let mut errors = Vec::new();
    let target_path = Path::new("target");
    if binding
        .target
        .kind
        .as_deref()
        .is_some_and(|kind| !kind.is_empty() && kind != "Node")
    {
        let kind = binding.target.kind.clone().unwrap_or_default();
        errors.push(FieldError::not_supported(
            &target_path.child("kind"),
            kind,
            &["Node", "<empty>"],
        ));
    }
    if binding.target.name.as_deref().is_none_or(str::is_empty) {
        errors.push(FieldError::required(&target_path.child("name"), ""));
    }
    if !errors.is_empty() {
        return Err(ApiError::invalid_kind(
            "",
            "Binding",
            &name,
            &FieldErrors(errors),
        ));
    }
    let target = Target {
        row,
        namespace: ask.info.namespace.clone(),
        name,
        subresource: "binding",
    };
    bind(&writer, &target, &binding).await?;
    Ok(success(ask, StatusCode::CREATED))
}

/// Binds a pod to a node: only once, and never one that is going.
pub(crate) async fn bind(
    writer: &Writer<'_>,
    target: &Target,
    binding: &Binding,
) -> Result<Written, ApiError> {
    let node = binding.target.name.clone().unwrap_or_default();
    writer
        .update(target, Part::Raw, |current: &Current<'_>| {
            let mut object = current.old.clone_object();
            let pod = object
                .typed_mut::<Pod>()
                .ok_or_else(|| ApiError::internal("a binding of what is no pod"))?;
            let name = &target.name;
            let refuse = |why: String| {
                ApiError::new(
                    409,
                    "Conflict",
                    format!("Operation cannot be fulfilled on pods/binding {name:?}: {why}"),
                )
            };
            if let Some(uid) = binding
                .metadata
                .uid
                .as_deref()
                .filter(|uid| !uid.is_empty())
                && pod.metadata.uid.as_deref() != Some(uid)
            {
                let is = pod.metadata.uid.as_deref().unwrap_or_default();
                return Err(refuse(format!(
                    "Precondition failed: UID in precondition: {uid}, UID in object meta: {is}"
                )));
            }
            if pod.metadata.deletion_timestamp.is_some() {
                return Err(refuse(format!(
                    "pod {name} is being deleted, cannot be assigned to a host"
                )));
            }
            let spec = pod.spec.get_or_insert_default();
            if let Some(bound) = spec.node_name.as_deref().filter(|bound| !bound.is_empty()) {
                return Err(refuse(format!(
                    "pod {name} is already assigned to node {bound:?}"
                )));
            }
            if spec
                .scheduling_gates
                .as_ref()
                .is_some_and(|gates| !gates.is_empty())
            {
                return Err(refuse(format!(
                    "pod {name} has non-empty .spec.schedulingGates"
                )));
            }
            spec.node_name = Some(node.clone());
            if let Some(annotations) = &binding.metadata.annotations {
                pod.metadata
                    .annotations
                    .get_or_insert_default()
                    .extend(annotations.clone());
            }
            scheduled(pod);
            Ok(object)
        })
        .await
}

fn scheduled(pod: &mut Pod) {
    let conditions = pod
        .status
        .get_or_insert_default()
        .conditions
        .get_or_insert_default();
    conditions.retain(|condition| condition.type_ != "PodScheduled");
    conditions.push(PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "True".to_owned(),
        last_transition_time: Some(time::time(time::now())),
        ..PodCondition::default()
    });
}

/// namespaces/finalize: replaces `spec.finalizers`; the last one gone lets the namespace go.
pub(crate) async fn finalize(
    api: &ApiServer,
    ask: &Ask,
    target: &Target,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let writer = writer(api, ask, "UpdateOptions")?;
    let wanted: Namespace = decoded(ask, body, "Namespace").await?;
    let done = finalize_to(&writer, target, &wanted).await?;
    crate::verbs::written(ask, target, done, Vec::new())
}

pub(crate) async fn finalize_to(
    writer: &Writer<'_>,
    target: &Target,
    wanted: &Namespace,
) -> Result<Written, ApiError> {
    writer
        .update(target, Part::Raw, |current: &Current<'_>| {
            let mut object = current.old.clone_object();
            object
                .meta_mut()
                .resource_version
                .clone_from(&wanted.metadata.resource_version);
            let namespace = object
                .typed_mut::<Namespace>()
                .ok_or_else(|| ApiError::internal("finalize of what is no namespace"))?;
            let finalizers = wanted
                .spec
                .as_ref()
                .and_then(|spec| spec.finalizers.clone())
                .filter(|list| !list.is_empty());
            namespace.spec.get_or_insert_default().finalizers = finalizers;
            Ok(object)
        })
        .await
}

/// pods/eviction: a deletion that a disruption budget could refuse; there are no budgets yet.
pub(crate) async fn evict(
    api: &ApiServer,
    ask: &Ask,
    target: &Target,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let mut writer = writer(api, ask, "CreateOptions")?;
    let eviction: Value = decoded(ask, body, "Eviction").await?;
    let named = eviction
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if !named.is_empty() && named != target.name {
        return Err(ApiError::bad_request(
            "name in URL does not match name in Eviction object",
        ));
    }
    let options = eviction
        .get("deleteOptions")
        .filter(|options| !options.is_null());
    let options = options
        .map(Value::to_string)
        .unwrap_or_else(|| "{}".to_owned());
    let options = DeleteOptions::parse(options.as_bytes(), &ask.query)?;
    writer.options.dry_run |= options.dry_run;
    let pod = Target {
        subresource: "",
        ..target.clone()
    };
    writer.delete(&pod, &options).await?;
    Ok(success(ask, StatusCode::CREATED))
}

/// The scale of a workload, as `autoscaling/v1 Scale`.
fn scale_of(value: &Value) -> Value {
    let meta = |name: &str| {
        value
            .pointer(&format!("/metadata/{name}"))
            .cloned()
            .unwrap_or(Value::Null)
    };
    let mut metadata = serde_json::Map::new();
    for name in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        metadata.insert(name.to_owned(), meta(name));
    }
    let selector = value
        .pointer("/spec/selector")
        .and_then(|selector| serde_json::from_value(selector.clone()).ok())
        .and_then(|selector| Selector::from_label_selector(Some(&selector)).ok())
        .map(|selector| selector.to_string())
        .unwrap_or_default();
    let mut status = json!({ "replicas": value.pointer("/status/replicas").and_then(Value::as_i64).unwrap_or(0) });
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": { "replicas": value.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0) },
        "status": status,
    })
}

/// From the scale there is to the one that is wanted.
type Change = Box<dyn Fn(&Value) -> Result<Value, ApiError> + Send + Sync>;

/// Reads, replaces or patches a scale.
pub(crate) async fn scale(
    api: &ApiServer,
    ask: &Ask,
    target: &Target,
    verb: &str,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    if verb == "get" {
        let entry = crate::verbs::read::snapshot(api, ask)
            .await?
            .entry(&target.key())
            .ok_or_else(|| ApiError::not_found(target.row, &target.name))?;
        let value: Value = serde_json::from_slice(&entry.json).map_err(ApiError::internal)?;
        return shown(ask, StatusCode::OK, &scale_of(&value));
    }
    let writer = writer(
        api,
        ask,
        if verb == "patch" {
            "PatchOptions"
        } else {
            "UpdateOptions"
        },
    )?;
    let change: Change = if verb == "patch" {
        let patch = Patch::read(ask, body).await?;
        let ty = api.schema.of("io.k8s.api.autoscaling.v1.Scale");
        Box::new(move |old| patch.apply(old, ty))
    } else {
        let wanted: Value = decoded(ask, body, "Scale").await?;
        Box::new(move |_| Ok(wanted.clone()))
    };
    let done = writer
        .update(target, Part::Main, |current: &Current<'_>| {
            let mut value = current.old.to_value();
            let wanted = change(&scale_of(&value))?;
            let replicas = wanted
                .pointer("/spec/replicas")
                .cloned()
                .unwrap_or(Value::from(0));
            let number = replicas
                .as_i64()
                .and_then(|number| i32::try_from(number).ok());
            match number {
                Some(0..) => {}
                _ => {
                    let errors = vec![FieldError::invalid(
                        &Path::new("spec").child("replicas"),
                        replicas,
                        "must be greater than or equal to 0",
                    )];
                    return Err(ApiError::invalid_kind(
                        "autoscaling",
                        "Scale",
                        &target.name,
                        &FieldErrors(errors),
                    ));
                }
            }
            value["spec"]["replicas"] = replicas;
            value["metadata"]["resourceVersion"] = wanted
                .pointer("/metadata/resourceVersion")
                .cloned()
                .unwrap_or(Value::Null);
            target
                .resource()
                .from_value(value)
                .map_err(|error| ApiError::bad_request(error.to_string()))
        })
        .await?;
    let value: Value = serde_json::from_slice(&done.json).map_err(ApiError::internal)?;
    shown(ask, StatusCode::OK, &scale_of(&value))
}

/// serviceaccounts/token: signs a token bound to the account and, where asked, to a pod, secret or node.
pub(crate) async fn token(
    api: &ApiServer,
    ask: &Ask,
    target: &Target,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let options = WriteOptions::parse(&ask.query, ask.user_agent(), "CreateOptions")?;
    let mut request: TokenRequest = decoded(ask, body, "TokenRequest").await?;
    let (namespace, name) = (target.namespace.as_str(), target.name.as_str());
    let snapshot = api.store.snapshot();
    let view = View(&snapshot);
    let uid = view
        .service_account_uid(namespace, name)
        .ok_or_else(|| ApiError::not_found(target.row, name))?;
    let writer = Writer {
        api,
        user: &ask.user,
        epoch: None,
        options,
    };
    let admission = crate::admission::Admission::new(
        api,
        writer.user,
        &snapshot,
        target,
        crate::admission::Operation::Create,
    );
    restrict(&admission, &request)?;
    let asked = request.spec.get_or_insert_default().clone();
    let seconds = asked.expiration_seconds.unwrap_or(3600);
    let path = Path::new("spec").child("expirationSeconds");
    let mut errors = Vec::new();
    match u64::try_from(seconds) {
        Ok(seconds) if seconds < MIN_TTL => errors.push(FieldError::invalid(
            &path,
            seconds,
            "may not specify a duration less than 10 minutes",
        )),
        Ok(seconds) if seconds > MAX_TTL => errors.push(FieldError::invalid(
            &path,
            seconds,
            "may not specify a duration larger than 2^32 seconds",
        )),
        Ok(_) => {}
        Err(_) => errors.push(FieldError::invalid(
            &path,
            seconds,
            "may not specify a duration less than 10 minutes",
        )),
    }
    if !errors.is_empty() {
        return Err(ApiError::invalid_kind(
            "authentication.k8s.io",
            "TokenRequest",
            name,
            &FieldErrors(errors),
        ));
    }
    let spec = TokenSpec {
        namespace: namespace.to_owned(),
        service_account: name.to_owned(),
        uid,
        audiences: asked.audiences.clone().unwrap_or_default(),
        ttl: seconds.unsigned_abs(),
        bound: bound(&snapshot, target, &request)?,
    };
    let now = time::now();
    let issued = api
        .authority
        .tokens()
        .issue(&spec, now.as_second().unsigned_abs())
        .map_err(ApiError::internal)?;
    let answered = request.spec.get_or_insert_default();
    if answered.audiences.as_ref().is_none_or(Vec::is_empty) {
        answered.audiences = Some(vec![api.authority.tokens().issuer().to_owned()]);
    }
    answered.expiration_seconds = Some(seconds);
    let expires = jiff::Timestamp::from_second(i64::try_from(issued.expires).unwrap_or(i64::MAX))
        .unwrap_or(now);
    request.status = Some(TokenRequestStatus {
        token: Some(issued.token),
        expiration_timestamp: Some(Time(expires)),
    });
    request.metadata.name = Some(name.to_owned());
    request.metadata.namespace = Some(namespace.to_owned());
    request.metadata.creation_timestamp = Some(time::time(now));
    shown(ask, StatusCode::CREATED, &request)
}

/// A node gets tokens only for its own pods.
fn restrict(
    admission: &crate::admission::Admission<'_>,
    request: &TokenRequest,
) -> Result<(), ApiError> {
    use caravel_auth::node_restriction::{Change, Operation, admit};
    let target = admission.target;
    let change = Change {
        user: admission.user,
        operation: Operation::Create,
        group: target.row.group,
        resource: target.row.plural,
        subresource: target.subresource,
        namespace: &target.namespace,
        name: &target.name,
        object: Some(request),
        old: None,
    };
    admit(&change, &admission.view()).map_err(|why| admission.forbidden(why))
}

fn bound(
    snapshot: &caravel_store::Snapshot,
    target: &Target,
    request: &TokenRequest,
) -> Result<Option<Bound>, ApiError> {
    let Some(reference) = request
        .spec
        .as_ref()
        .and_then(|spec| spec.bound_object_ref.as_ref())
    else {
        return Ok(None);
    };
    let kind = reference.kind.as_deref().unwrap_or_default();
    let name = reference.name.clone().unwrap_or_default();
    let found = |plural: &str, uid: Option<String>| -> Result<String, ApiError> {
        let row = kinds::by_resource("", "v1", plural).ok_or_else(ApiError::no_such_resource)?;
        let uid = uid.ok_or_else(|| ApiError::not_found(row, &name))?;
        if reference
            .uid
            .as_deref()
            .is_some_and(|wanted| !wanted.is_empty() && wanted != uid)
        {
            let wanted = reference.uid.as_deref().unwrap_or_default();
            let why = format!(
                "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated"
            );
            return Err(ApiError::conflict(row, &name, why));
        }
        Ok(uid)
    };
    let view = View(snapshot);
    Ok(Some(match kind {
        "Pod" => {
            let pod = snapshot
                .get::<Pod>(&ObjectName::new(target.namespace.as_str(), name.as_str()))
                .map_err(ApiError::internal)?;
            let uid = found(
                "pods",
                pod.as_ref().and_then(|pod| pod.metadata.uid.clone()),
            )?;
            let spec = pod.as_ref().and_then(|pod| pod.spec.as_ref());
            let account = spec
                .and_then(|spec| spec.service_account_name.as_deref())
                .unwrap_or_default();
            if account != target.name {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                    target.name
                )));
            }
            let node = spec
                .and_then(|spec| spec.node_name.clone())
                .filter(|node| !node.is_empty());
            let node = node.map(|node| {
                let uid = view.node(&node).map(|node| node.uid).unwrap_or_default();
                (node, uid)
            });
            Bound::Pod { name, uid, node }
        }
        "Secret" => {
            let uid = found(
                "secrets",
                view.secret(&target.namespace, &name)
                    .map(|secret| secret.uid),
            )?;
            Bound::Secret { name, uid }
        }
        "Node" => {
            let uid = found("nodes", view.node(&name).map(|node| node.uid))?;
            Bound::Node { name, uid }
        }
        other => {
            return Err(ApiError::bad_request(format!(
                "cannot bind token to object of type {other}"
            )));
        }
    }))
}

/// The row of pods.
pub(crate) fn pods() -> &'static Row {
    <Pod as Kind>::row()
}

/// As the binding that the scheduler's verb makes.
pub(crate) fn binding_to(node: &str, uid: Option<&str>) -> Binding {
    let mut binding = Binding::default();
    binding.metadata.uid = uid.map(str::to_owned);
    binding.target.kind = Some("Node".to_owned());
    binding.target.name = Some(node.to_owned());
    binding
}
