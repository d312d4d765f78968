//! A TCP proxy between engines and a server: it can be slow, deaf on one side or on both, and cut connections.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// How the line behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Everything passes.
    Sound,
    /// Everything passes so much later.
    Late(Duration),
    /// Connections are taken, and nothing passes, as on a cut cable.
    HalfOpen,
    /// Only what the server says passes.
    DeafServer,
    /// Only what the client says passes.
    DeafClient,
    /// So many bytes a second pass, in each direction of each connection.
    Slow(u64),
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    ToServer,
    ToClient,
}

#[derive(Clone, Debug)]
struct Switch {
    line: watch::Receiver<Line>,
    /// Grows when all connections are cut.
    cuts: watch::Receiver<u64>,
}

/// A proxy on a port of its own. Dropping it ends its connections.
#[derive(Debug)]
pub(super) struct Proxy {
    port: u16,
    line: watch::Sender<Line>,
    cuts: watch::Sender<u64>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Passes on to the server at `port` of this machine.
    pub(super) fn start(runtime: &Handle, port: u16) -> anyhow::Result<Self> {
        let listener = runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .context("no port for a proxy")?;
        let own = listener.local_addr()?.port();
        let (line, watched) = watch::channel(Line::Sound);
        let (cuts, cut) = watch::channel(0);
        let switch = Switch {
            line: watched,
            cuts: cut,
        };
        let task = runtime.spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            loop {
                match listener.accept().await {
                    Ok((client, _)) => drop(tasks.spawn(pass(client, port, switch.clone()))),
                    // Too many open files: the next client may be luckier.
                    Err(_) => sleep(Duration::from_millis(10)).await,
                }
                while tasks.try_join_next().is_some() {}
            }
        });
        Ok(Self {
            port: own,
            line,
            cuts,
            task,
        })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// From now on the line is like that, for open connections too.
    pub(super) fn set(&self, line: Line) {
        self.line.send_replace(line);
    }

    /// Resets every open connection.
    pub(super) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(client: TcpStream, port: u16, mut switch: Switch) {
    switch.cuts.mark_unchanged();
    let server = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port)));
    let Ok(server) = server.await else {
        // Nobody listens there: nobody listens here.
        client.set_zero_linger().ok();
        return;
    };
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let cuts = &mut switch.cuts.clone();
    let (mut client, mut server) = (client, server);
    let is_cut = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::select! {
            // Nothing that is held passes once the connection is cut.
            biased;
            _ = cuts.changed() => true,
            _ = copy(from_client, to_server, Way::ToServer, switch.clone()) => false,
            _ = copy(from_server, to_client, Way::ToClient, switch.clone()) => false,
        }
    };
    if is_cut {
        // With what is unsent dropped, the other side gets a reset.
        client.set_zero_linger().ok();
        server.set_zero_linger().ok();
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    way: Way,
    mut switch: Switch,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let most = match *switch.line.borrow() {
            // A tenth of a second's worth at once.
            Line::Slow(bytes) => usize::try_from(bytes / 10).unwrap_or(1).clamp(1, buffer.len()),
            _ => buffer.len(),
        };
        let read = from.read(&mut buffer[..most]).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        let passes = |line: &Line| match line {
            Line::Sound | Line::Late(_) | Line::Slow(_) => true,
            Line::HalfOpen => false,
            Line::DeafServer => way == Way::ToClient,
            Line::DeafClient => way == Way::ToServer,
        };
        let line = match switch.line.wait_for(passes).await {
            Ok(line) => *line,
            Err(_) => return Ok(()),
        };
        match line {
            Line::Late(by) => sleep(by).await,
            Line::Slow(_) => sleep(Duration::from_millis(100)).await,
            _ => {}
        }
        to.write_all(&buffer[..read]).await?;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::{Read, Write};

    use super::*;

    /// A server that sends back what it hears, behind a proxy, and a client of it.
    fn echoed() -> (tokio::runtime::Runtime, Proxy, std::net::TcpStream) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                std::thread::spawn(move || {
                    let mut back = stream.try_clone().unwrap();
                    std::io::copy(&mut &stream, &mut back).ok();
                });
            }
        });
        let proxy = Proxy::start(runtime.handle(), port).unwrap();
        let client = std::net::TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        // Above what a busy machine takes for an answer.
        client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        (runtime, proxy, client)
    }

    fn asks(client: &mut std::net::TcpStream) -> std::io::Result<u8> {
        client.write_all(&[7])?;
        let mut answer = [0];
        client.read_exact(&mut answer)?;
        Ok(answer[0])
    }

    #[test]
    fn a_deaf_side_hears_once_the_line_is_sound_again() {
        for line in [Line::HalfOpen, Line::DeafServer, Line::DeafClient] {
            let (_runtime, proxy, mut client) = echoed();
            assert_eq!(asks(&mut client).unwrap(), 7);
            proxy.set(line);
            asks(&mut client).unwrap_err();
            proxy.set(Line::Sound);
            client.set_read_timeout(None).unwrap();
            let mut answer = [0];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(answer[0], 7, "{line:?}");
        }
    }

    #[test]
    fn a_cut_line_resets_and_a_new_connection_passes() {
        let (_runtime, proxy, mut client) = echoed();
        assert_eq!(asks(&mut client).unwrap(), 7);
        proxy.cut();
        client.set_read_timeout(None).unwrap();
        let lost = client.read_exact(&mut [0]).unwrap_err();
        assert_eq!(lost.kind(), std::io::ErrorKind::ConnectionReset);
        let mut client = std::net::TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        assert_eq!(asks(&mut client).unwrap(), 7);
    }
}
