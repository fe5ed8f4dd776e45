//! One address for all servers of a cluster: connections go to a server that is ready, and leave one that no longer is.
//!
//! Each server is asked `/readyz` every second. It counts as gone when it refuses connections, says itself that it is not
//! ready, has not answered for a while, or is no longer in the list; then its connections are closed, so that clients
//! connect again and land elsewhere. Those made while nobody was ready last until somebody is. What passes through is not looked into: TLS ends at the server. As k3s' agent load balancer.

use crate::connect::{self, Config, Credential};
use crate::tasks;
use futures::FutureExt as _;
use futures::future::select_all;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const CONNECT: Duration = Duration::from_secs(2);
const ASK: Duration = Duration::from_secs(1);
const ANSWER: Duration = Duration::from_secs(2);
/// Questions in a row that a server may leave unanswered, or answer with no.
const MISSED: u32 = 2;
const MAX_CONNECTIONS: usize = 4096;

/// What is known of one server.
#[derive(Clone)]
struct Place {
    address: String,
    ready: Arc<watch::Sender<bool>>,
}

type Places = Arc<watch::Sender<Vec<Place>>>;

/// Serves `listener` until dropped. `servers` are URLs, which may change; `ca` is the cluster's, PEM.
pub async fn run(listener: TcpListener, servers: watch::Receiver<Vec<String>>, ca: String) {
    let places: Places = Arc::new(watch::Sender::new(Vec::new()));
    tokio::join!(
        probe_all(servers, ca, places.clone()),
        accept(listener, places)
    );
}

/// Keeps one prober for every server there is.
async fn probe_all(mut servers: watch::Receiver<Vec<String>>, ca: String, places: Places) {
    let mut probers: BTreeMap<String, (Place, JoinSet<()>)> = BTreeMap::new();
    loop {
        let urls = servers.borrow_and_update().clone();
        probers.retain(|url, (place, _)| {
            let stays = urls.contains(url);
            if !stays {
                place.ready.send_replace(false);
            }
            stays
        });
        for url in &urls {
            if probers.contains_key(url) {
                continue;
            }
            let Ok(address) = connect::authority(url) else {
                tracing::warn!(url, "not a server's URL");
                continue;
            };
            let place = Place {
                address,
                ready: Arc::new(watch::Sender::new(true)),
            };
            let probing = probe(url.clone(), ca.clone(), place.ready.clone());
            probers.insert(url.clone(), (place, tasks::owned(probing)));
        }
        let now = urls
            .iter()
            .filter_map(|url| Some(probers.get(url)?.0.clone()));
        places.send_replace(now.collect());
        if servers.changed().await.is_err() {
            // The list is final; the probers go on.
            std::future::pending::<()>().await;
        }
    }
}

async fn probe(url: String, ca: String, ready: Arc<watch::Sender<bool>>) {
    let config = Config {
        servers: vec![url.clone()],
        ca,
        credential: Credential::Anonymous,
        namespace: None,
    };
    let Ok(client) = connect::client(&config, &url) else {
        tracing::warn!(url, "the server cannot be asked whether it is ready");
        return;
    };
    let mut missed = 0;
    loop {
        match timeout(ANSWER, ask(&client)).await {
            Ok(Ok(())) => missed = 0,
            Ok(Err(Refused::Connection)) => missed = MISSED,
            Ok(Err(Refused::No)) | Err(_) => missed += 1,
        }
        let is = missed < MISSED;
        if ready.send_if_modified(|was| std::mem::replace(was, is) != is) {
            tracing::info!(server = %url, ready = is, "the API server");
        }
        sleep(ASK).await;
    }
}

enum Refused {
    /// Nobody listens.
    Connection,
    No,
}

async fn ask(client: &kube::Client) -> Result<(), Refused> {
    let request = http::Request::get("/readyz")
        .body(Vec::new())
        .map_err(|_| Refused::No)?;
    match client.request_text(request).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(_)) => Err(Refused::No),
        Err(error) => Err(match refused(&error) {
            true => Refused::Connection,
            false => Refused::No,
        }),
    }
}

fn refused(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused) {
            return true;
        }
        cause = error.source();
    }
    false
}

async fn accept(listener: TcpListener, places: Places) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = room.clone().acquire_owned().await else {
            return;
        };
        let client = match listener.accept().await {
            Ok((client, _)) => client,
            Err(error) => {
                tracing::warn!(%error, "accepting a connection");
                sleep(ASK).await;
                continue;
            }
        };
        let places = places.subscribe();
        tasks::spawn(&mut connections, async move {
            let _place = place;
            serve(client, places).await;
        });
    }
}

async fn serve(mut client: TcpStream, places: watch::Receiver<Vec<Place>>) {
    let known = places.borrow().clone();
    let Some((mut server, place)) = reach(&known).await else {
        return;
    };
    // Small messages; a socket that cannot be set is only slower.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    tokio::select! {
        // Either end may close or break; that is their affair.
        _ = copy_bidirectional(&mut client, &mut server) => {}
        () = to_be_left(&place, places) => {}
    }
}

/// The first server that is ready and takes a connection; when none is ready, the first that takes one.
async fn reach(places: &[Place]) -> Option<(TcpStream, Place)> {
    let (ready, rest): (Vec<_>, Vec<_>) = places.iter().partition(|place| *place.ready.borrow());
    for place in if ready.is_empty() { rest } else { ready } {
        if let Ok(Ok(stream)) = timeout(CONNECT, TcpStream::connect(&place.address)).await {
            return Some((stream, place.clone()));
        }
    }
    None
}

/// Returns when `place` is not ready although some server is, or was since it was taken: where nobody is ready, any is as good.
async fn to_be_left(place: &Place, mut places: watch::Receiver<Vec<Place>>) {
    loop {
        let known = places.borrow_and_update().clone();
        tokio::select! {
            () = somebody_ready(&known) => break,
            Ok(()) = places.changed() => {}
        }
    }
    let mut ready = place.ready.subscribe();
    let _ = ready.wait_for(|ready| !ready).await;
}

async fn somebody_ready(places: &[Place]) {
    if places.is_empty() {
        return std::future::pending().await;
    }
    let mut each: Vec<_> = places.iter().map(|one| one.ready.subscribe()).collect();
    let ready = each
        .iter_mut()
        .map(|one| one.wait_for(|ready| *ready).boxed());
    drop(select_all(ready).await);
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn server() -> (Place, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let place = Place {
            address,
            ready: Arc::new(watch::Sender::new(true)),
        };
        (place, listener)
    }

    #[tokio::test]
    async fn connections_leave_a_server_that_is_not_ready() {
        let (first, at_first) = server().await;
        let (second, at_second) = server().await;
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = front.local_addr().unwrap();
        let places: Places = Arc::new(watch::Sender::new(vec![first.clone(), second]));
        let mut running = JoinSet::new();
        running.spawn(accept(front, places));
        let mut client = TcpStream::connect(address).await.unwrap();
        let (mut there, _) = at_first.accept().await.unwrap();
        there.write_all(b"1").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'1');
        first.ready.send_replace(false);
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0, "closed");
        let mut client = TcpStream::connect(address).await.unwrap();
        let (mut there, _) = at_second.accept().await.unwrap();
        there.write_all(b"2").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'2');
    }

    #[tokio::test]
    async fn when_nobody_is_ready_anybody_is_tried_until_somebody_is() {
        let (first, at_first) = server().await;
        let (second, _at_second) = server().await;
        let places = vec![first.clone(), second.clone()];
        for place in &places {
            place.ready.send_replace(false);
        }
        let (_stream, place) = reach(&places).await.unwrap();
        assert_eq!(place.address, first.address);
        // Is a connection to the first left, now that this is who is ready?
        let (list, known) = watch::channel(places);
        let mut left = Box::pin(to_be_left(&place, known.clone()));
        let mut left_when = |ready: (bool, bool)| {
            first.ready.send_replace(ready.0);
            second.ready.send_replace(ready.1);
            (&mut left).now_or_never().is_some()
        };
        assert!(!left_when((false, false)));
        assert!(!left_when((true, false)));
        assert!(!left_when((true, true)));
        assert!(left_when((false, true)), "as any other that is not ready");

        first.ready.send_replace(false);
        second.ready.send_replace(false);
        list.send_replace(vec![first.clone()]);
        let mut left = Box::pin(to_be_left(&place, known));
        assert!((&mut left).now_or_never().is_none());
        second.ready.send_replace(true);
        assert!((&mut left).now_or_never().is_none(), "not yet known");
        list.send_replace(vec![first, second]);
        left.await;
        drop(at_first);
    }
}
