//! The daemon's start and end. The order of the steps is the order of the list in `run`.

use std::sync::Arc;

use anyhow::Context;
use caravel_exporter::Registry;
use caravel_images::{ImageStore, Registries};
use caravel_runtime::{Runtime, Shims, ShimsConfig};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::bound::Bound;
use crate::events::{Events, Recorder};
use crate::machine::Machine;
use crate::network::{self, Cluster};
use crate::objects::ObjectCache;
use crate::server::{self, Certificates};
use crate::tasks::{Tasks, blocking};
use crate::world::World;
use crate::{NodeConfig, Pods, image_collection, lease, node};

/// Runs a node until `shutdown`. Its containers go on after that.
///
/// # Errors
/// What this machine lacks. An API server that cannot be reached is waited for.
pub async fn run(config: NodeConfig, shutdown: CancellationToken) -> anyhow::Result<()> {
    caravel_client::connect::install_crypto();
    let runtime = Shims::open(ShimsConfig {
        program: config.program.clone(),
        run: config.run_dir.clone(),
        data: config.data_dir.clone(),
        cgroup_parent: config.cgroup_parent.clone(),
    })
    .await
    .context("open the container runtime")?;
    run_with(config, runtime, shutdown).await
}

/// As `run`, with a given runtime.
pub async fn run_with(
    config: NodeConfig,
    runtime: Arc<dyn Runtime>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mut tasks = Tasks::default();

    // 1. What is on this machine.
    let images = open_images(&config).await?;
    let imported = import_images(&mut tasks, &config, &images);

    // 2. The cluster.
    let api = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        api = Api::connect(config.client.clone()) => api,
    };
    let changed = Arc::new(Notify::new());
    let (services, services_writer) = network::store::<Service>();
    let (slices, slices_writer) = network::store::<EndpointSlice>();
    let (nodes, nodes_writer) = network::store::<Node>();
    let (known_sender, services_known) = watch::channel(false);
    let (opened, network) = watch::channel(None);
    let (events, mut queue) = Events::new();
    let machine = Machine::read(&config.kubelet_dir);
    let world = Arc::new(World {
        machine,
        runtime,
        images,
        imported,
        api: api.clone(),
        events,
        objects: ObjectCache::default(),
        pods: Pods::default(),
        network,
        services: services.clone(),
        services_known,
        rules_changed: changed.clone(),
        shutdown: shutdown.clone(),
        config,
    });

    // 3. Node first: whatever follows is allowed to a node that is known.
    let Some(registered) = node::register(&world).await else {
        return Ok(());
    };
    tracing::info!(node = world.config.name, "node registered");

    // 4. Everything that runs until the end.
    tasks.start(network::follow(
        api.clone(),
        services_writer,
        changed.clone(),
        Some(known_sender),
        shutdown.clone(),
    ));
    tasks.start(network::follow(
        api.clone(),
        slices_writer,
        changed.clone(),
        None,
        shutdown.clone(),
    ));
    tasks.start(network::follow(
        api.clone(),
        nodes_writer,
        changed.clone(),
        None,
        shutdown.clone(),
    ));
    let recording = (world.clone(), shutdown.clone());
    tasks.start(async move {
        let (world, shutdown) = recording;
        let mut recorder = Recorder::default();
        loop {
            let told = tokio::select! {
                () = shutdown.cancelled() => return,
                told = queue.recv() => told,
            };
            let Some(told) = told else { return };
            recorder.record(&world.api, &world.config.name, told).await;
        }
    });
    tasks.start(lease::keep(
        world.clone(),
        registered.metadata.uid.clone().unwrap_or_default(),
    ));
    let cluster = Cluster {
        services,
        slices,
        nodes: nodes.clone(),
        changed,
    };
    tasks.start(network::keep(world.clone(), cluster, opened));
    tasks.start(node::report(world.clone(), registered.clone()));
    tasks.start(image_collection::keep(world.clone()));

    // 5. Pods last.
    let bound = Bound::open(world.clone(), nodes, registered)
        .await
        .context("read what the container runtime has")?;
    tasks.start(bound.run());

    // 6. The node's own server, here: if it cannot listen the daemon ends and says so.
    let certificates = Certificates {
        cert: &world.config.serving_cert,
        key: &world.config.serving_key,
        client_ca: &world.config.client_ca,
    };
    let state = server::State::new(
        world.config.name.clone(),
        world.pods.clone(),
        world.runtime.clone(),
        Arc::new(api),
        Registry::new(),
        world.config.kubelet_dir.clone(),
    );
    let served = server::serve(world.config.listen, certificates, state, shutdown.clone()).await;
    shutdown.cancel();
    tasks.ended().await;
    served
}

async fn open_images(config: &NodeConfig) -> anyhow::Result<ImageStore> {
    let registries = Registries::load(&config.registries)?;
    let data_dir = config.data_dir.clone();
    blocking(move || ImageStore::of_node(&data_dir, registries))
        .await
        .context("open the image store")
}

/// Beside the start: a large archive must not hold it up. Only pods whose image is not there yet wait until all is done.
fn import_images(
    tasks: &mut Tasks,
    config: &NodeConfig,
    images: &ImageStore,
) -> watch::Receiver<bool> {
    let (done, imported) = watch::channel(false);
    let mut directories = config.image_dirs.clone();
    directories.insert(0, config.data_dir.join("images"));
    let images = images.clone();
    tasks.start(async move {
        for directory in directories {
            for result in images.import_directory(&directory).await {
                match result {
                    Ok(images) => tracing::info!(images = ?images.iter().flat_map(|i| &i.references).collect::<Vec<_>>(), "imported"),
                    Err(error) => tracing::error!(%error, "archive not imported"),
                }
            }
        }
        done.send_replace(true);
    });
    imported
}
