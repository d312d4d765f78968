//! One connection with one channel in confirm mode. Every wait has an end.

use std::future::Future;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use lapin::options::ConfirmSelectOptions;
use lapin::tcp::AsyncTcpStream;
use lapin::uri::AMQPScheme;
use lapin::{Channel, Connection, ConnectionProperties};
use parking_lot::Mutex;
use tokio::time::timeout;

use super::options::Checked;
use super::topology;

/// How long a connection that is given up may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// An open connection.
pub(super) struct Link {
    pub(super) connection: Connection,
    pub(super) channel: Channel,
    socket: Socket,
}

impl Link {
    /// Connects, then declares or checks exchange and queues.
    pub(super) async fn open(checked: &Arc<Checked>) -> Result<Self, String> {
        let link = Self::bare(checked).await?;
        let limit = checked.options.connect_timeout;
        let prepared = topology::prepare(&link.channel, checked);
        within(limit, "declaring exchange and queues", prepared).await?;
        Ok(link)
    }

    /// Connects, and declares nothing.
    pub(super) async fn bare(checked: &Arc<Checked>) -> Result<Self, String> {
        let limit = checked.options.connect_timeout;
        let socket = Socket::default();
        let connection = within(limit, "connecting", connect(checked, &socket)).await?;
        let ready = async {
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok(channel)
        };
        let channel = within(limit, "opening a channel", ready).await?;
        Ok(Self {
            connection,
            channel,
            socket,
        })
    }

    /// Whether messages can be handed to it.
    pub(super) fn is_open(&self) -> bool {
        self.connection.status().connected() && self.channel.status().connected()
    }

    /// Says goodbye, then cuts the connection whatever the answer.
    pub(super) async fn close(self) {
        // A connection that does not answer is cut all the same.
        timeout(GOODBYE, self.connection.close(200, "bye".into())).await.ok();
        drop(self.socket);
    }
}

async fn within<T>(limit: Duration, what: &str, work: impl Future<Output = lapin::Result<T>>) -> Result<T, String> {
    match timeout(limit, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(format!("{what}: {error}")),
        Err(_) => Err(format!("{what}: no answer within {limit:?}")),
    }
}

/// The connection's socket once more, to cut it when this is dropped. The client reads it in a thread of its own, which ends
/// with the connection only: a broker that never answers would keep that thread for ever.
#[derive(Default)]
struct Socket(Arc<Mutex<Kept>>);

#[derive(Default)]
enum Kept {
    /// Not connected yet.
    #[default]
    Nothing,
    Open(TcpStream),
    /// Nobody wants the connection any more.
    Cut,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Kept::Open(socket) = std::mem::replace(&mut *self.0.lock(), Kept::Cut) {
            // It may be closed already.
            socket.shutdown(Shutdown::Both).ok();
        }
    }
}

fn keep(kept: &Mutex<Kept>, socket: impl AsFd) -> io::Result<()> {
    let mut kept = kept.lock();
    if matches!(*kept, Kept::Cut) {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    *kept = Kept::Open(TcpStream::from(socket.as_fd().try_clone_to_owned()?));
    Ok(())
}

async fn connect(checked: &Arc<Checked>, socket: &Socket) -> lapin::Result<Connection> {
    let properties = ConnectionProperties::default()
        .with_connection_name(checked.options.connection_name.as_str().into())
        .with_client_property("product".into(), "troupe".into());
    let (config, kept) = (Arc::clone(checked), Arc::clone(&socket.0));
    let runtime = lapin::runtime::default_runtime()?;
    Connection::connector(
        checked.uri.clone(),
        runtime,
        async move |uri, runtime| {
            let limit = config.options.connect_timeout;
            let opened = async {
                let authority = (uri.authority.host.as_str(), uri.authority.port);
                let addresses: Vec<_> = tokio::net::lookup_host(authority).await?.collect();
                let stream = AsyncTcpStream::connect(&runtime, addresses).await?;
                if let AsyncTcpStream::Plain(tcp) = &stream {
                    keep(&kept, tcp.get_ref())?;
                }
                match uri.scheme {
                    AMQPScheme::AMQP => Ok(stream),
                    AMQPScheme::AMQPS => stream.into_tls(&uri.authority.host, config.tls.as_ref()).await,
                }
            };
            let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no connection in time");
            Ok(timeout(limit, opened).await.map_err(late).flatten()?)
        },
        properties,
    )
    .await
}
