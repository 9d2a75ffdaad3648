//! An accepted connection that can be made to end.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Length of what an HTTP/2 client says first.
const PREFACE_LEN: usize = 24;
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);

/// Fails, whatever it waits for, once it is cut, and also if the peer doesn't say who it is:
/// HTTP/2 itself would wait for that for ever, and hold a shutdown.
pub(crate) struct Connection {
    stream: TcpStream,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    preface: Option<Preface>,
}

/// What the peer has yet to say first.
struct Preface {
    missing: usize,
    given_up: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Connection {
    /// `cut` ends it in any case, `shutdown` if the peer hasn't spoken by then.
    pub(crate) fn new(
        stream: TcpStream,
        shutdown: &CancellationToken,
        cut: &CancellationToken,
    ) -> Self {
        let shutdown = shutdown.clone();
        let given_up = Box::pin(async move {
            // Either way it is over.
            let _ = tokio::time::timeout(PREFACE_TIMEOUT, shutdown.cancelled()).await;
        });
        Self {
            stream,
            cut: Box::pin(cut.clone().cancelled_owned()),
            preface: Some(Preface {
                missing: PREFACE_LEN,
                given_up,
            }),
        }
    }

    /// The stream if it isn't cut; if it is cut later, the task of `context` is woken.
    fn uncut(&mut self, context: &mut Context<'_>) -> io::Result<Pin<&mut TcpStream>> {
        if self.cut.as_mut().poll(context).is_ready() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(Pin::new(&mut self.stream))
    }

    fn poll_given_up(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.preface {
            Some(preface) => preface.given_up.as_mut().poll(context),
            None => Poll::Pending,
        }
    }

    fn has_said(&mut self, bytes: usize) {
        self.preface = self.preface.take().and_then(|preface| {
            let missing = preface.missing.saturating_sub(bytes);
            (missing > 0).then_some(Preface { missing, ..preface })
        });
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = self.uncut(context)?.poll_read(context, buffer);
        self.has_said(buffer.filled().len() - before);
        if read.is_pending() && self.poll_given_up(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.uncut(context)?.poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.uncut(context)?.poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.uncut(context)?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}
