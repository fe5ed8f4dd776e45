//! One address for all servers of a cluster: connections go to a server that is ready, and leave one that no longer is.
//!
//! Each server is asked `/readyz` every second. It counts as gone when it refuses connections, says itself that it is not
//! ready, or has not answered for a while; then its connections are closed, as are those of a server that left the list, so
//! that clients connect again and land elsewhere. Those made while nobody was ready last until somebody is. What passes
//! through is not looked into: TLS ends at the server. As k3s' agent load balancer.

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
    state: Arc<watch::Sender<State>>,
}

/// In the order in which they are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Ready,
    /// Not asked yet.
    Unknown,
    Gone,
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
        probers.retain(|url, _| urls.contains(url));
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
                state: Arc::new(watch::Sender::new(State::Unknown)),
            };
            let probing = probe(url.clone(), ca.clone(), place.state.clone());
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

async fn probe(url: String, ca: String, state: Arc<watch::Sender<State>>) {
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
        let is = match missed {
            0 => State::Ready,
            MISSED.. => State::Gone,
            // As it was, until it is sure.
            _ => *state.borrow(),
        };
        if state.send_if_modified(|was| std::mem::replace(was, is) != is) {
            tracing::info!(server = %url, state = ?is, "the API server");
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

/// The first server that takes a connection, of those that are ready if one of them does.
async fn reach(places: &[Place]) -> Option<(TcpStream, Place)> {
    let mut places: Vec<_> = places.iter().collect();
    places.sort_by_cached_key(|place| *place.state.borrow());
    for place in places {
        if let Ok(Ok(stream)) = timeout(CONNECT, TcpStream::connect(&place.address)).await {
            return Some((stream, place.clone()));
        }
    }
    None
}

/// Returns when `place` is gone, or no longer listed, although some server is ready, or was since it was taken: where nobody
/// is ready, any is as good.
async fn to_be_left(place: &Place, mut places: watch::Receiver<Vec<Place>>) {
    loop {
        let known = places.borrow_and_update().clone();
        tokio::select! {
            () = somebody_ready(&known) => break,
            Ok(()) = places.changed() => {}
        }
    }
    let mut state = place.state.subscribe();
    let same = |other: &Place| Arc::ptr_eq(&other.state, &place.state);
    tokio::select! {
        _ = state.wait_for(|state| *state == State::Gone) => {}
        _ = places.wait_for(|known| !known.iter().any(same)) => {}
    }
}

async fn somebody_ready(places: &[Place]) {
    if places.is_empty() {
        return std::future::pending().await;
    }
    let mut each: Vec<_> = places.iter().map(|one| one.state.subscribe()).collect();
    let ready = each
        .iter_mut()
        .map(|one| one.wait_for(|state| *state == State::Ready).boxed());
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
            state: Arc::new(watch::Sender::new(State::Ready)),
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
        first.state.send_replace(State::Gone);
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0, "closed");
        let mut client = TcpStream::connect(address).await.unwrap();
        let (mut there, _) = at_second.accept().await.unwrap();
        there.write_all(b"2").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'2');
    }

    #[tokio::test]
    async fn who_is_ready_is_tried_first_and_all_are_tried() {
        use State::{Gone, Ready, Unknown};
        let (first, at_first) = server().await;
        let (second, at_second) = server().await;
        let places = [first, second];
        let reached = async |states: [State; 2]| {
            for (place, state) in places.iter().zip(states) {
                place.state.send_replace(state);
            }
            let (_, place) = reach(&places).await?;
            places.iter().position(|one| one.address == place.address)
        };
        assert_eq!(reached([Ready, Ready]).await, Some(0));
        assert_eq!(reached([Unknown, Ready]).await, Some(1));
        assert_eq!(reached([Gone, Unknown]).await, Some(1));
        assert_eq!(reached([Gone, Gone]).await, Some(0));
        drop(at_second);
        assert_eq!(reached([Gone, Ready]).await, Some(0), "rather than nobody");
        drop(at_first);
        assert_eq!(reached([Ready, Ready]).await, None);
    }

    #[tokio::test]
    async fn a_connection_is_left_for_a_server_that_is_ready() {
        use State::{Gone, Ready, Unknown};
        let (first, _) = server().await;
        let (second, _) = server().await;
        let (list, known) = watch::channel(vec![first.clone(), second.clone()]);
        // A connection to the first, made while nobody was ready.
        for steps in [
            vec![
                ((Gone, Gone), false),
                ((Ready, Gone), false),
                ((Gone, Gone), true),
            ],
            vec![
                ((Gone, Gone), false),
                ((Gone, Unknown), false),
                ((Gone, Ready), true),
            ],
            vec![
                ((Unknown, Unknown), false),
                ((Unknown, Ready), false),
                ((Gone, Gone), true),
            ],
        ] {
            let mut left = Box::pin(to_be_left(&first, known.clone()));
            for (states, expected) in steps {
                first.state.send_replace(states.0);
                second.state.send_replace(states.1);
                assert_eq!((&mut left).now_or_never().is_some(), expected, "{states:?}");
            }
        }
        first.state.send_replace(Gone);
        second.state.send_replace(Ready);
        list.send_replace(vec![first.clone()]);
        let mut left = Box::pin(to_be_left(&first, known.clone()));
        assert!(
            (&mut left).now_or_never().is_none(),
            "the other is not listed yet"
        );
        list.send_replace(vec![first.clone(), second.clone()]);
        assert!((&mut left).now_or_never().is_some());

        first.state.send_replace(Ready);
        let mut left = Box::pin(to_be_left(&first, known.clone()));
        assert!((&mut left).now_or_never().is_none());
        list.send_replace(vec![second]);
        assert!((&mut left).now_or_never().is_some(), "no longer listed");
    }
}
