//! A TCP proxy that can fall silent without closing anything, as a cut cable does.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    silent: watch::Sender<bool>,
}

impl Proxy {
    /// Passes on to `target`, a host and port.
    pub(crate) async fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (silent, watched) = watch::channel(false);
        let target = target.to_owned();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, target.clone(), watched.clone()));
            }
        });
        Self { address, silent }
    }

    /// From now on nothing passes; connections are still accepted.
    pub(crate) fn fall_silent(&self) {
        self.silent.send_replace(true);
    }

    /// Everything passes again, what was held included.
    pub(crate) fn pass_again(&self) {
        self.silent.send_replace(false);
    }
}

async fn pass(client: TcpStream, target: String, mut silent: watch::Receiver<bool>) {
    if silent.wait_for(|silent| !silent).await.is_err() {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    tokio::join!(
        copy(from_client, to_server, silent.clone()),
        copy(from_server, to_client, silent)
    );
}

async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut silent: watch::Receiver<bool>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = match from.read(&mut buffer).await {
            Ok(read) if read > 0 => read,
            _ => break,
        };
        if silent.wait_for(|silent| !silent).await.is_err() || to.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
    // The other side may be gone.
    to.shutdown().await.ok();
}
