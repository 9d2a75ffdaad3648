//! A wire between schedulers and PostgreSQL that can be cut at a commit. It reads the protocol just
//! far enough to know one: a statement that was prepared with the chain's fence in its text, bound again.

use std::collections::HashSet;
use std::io::Result;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Buf, Bytes, BytesMut};
use chaos::Wire;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// What happens to a commit on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cut {
    /// It never arrives, and the connection is closed.
    Before,
    /// It arrives, and the connection is closed at once.
    Amid,
    /// It is made and answered; the answer never arrives, and the connection is closed.
    After,
    /// It never arrives, and nobody hears any more.
    SilentBefore,
    /// It is made and answered, and nobody hears any more.
    SilentAfter,
}

impl Cut {
    pub(crate) const ALL: [Self; 5] = [
        Self::Before,
        Self::Amid,
        Self::After,
        Self::SilentBefore,
        Self::SilentAfter,
    ];

    fn is_silent(self) -> bool {
        matches!(self, Self::SilentBefore | Self::SilentAfter)
    }
}

/// The wire: what is to be cut, and what was.
#[derive(Default)]
pub(crate) struct Cuts {
    /// Every so many commits one is cut; 0: none.
    every: AtomicUsize,
    commits: AtomicUsize,
    cuts: AtomicUsize,
    hits: [AtomicUsize; Cut::ALL.len()],
    /// Nothing gets through until it is false again.
    stalled: watch::Sender<bool>,
}

impl Cuts {
    /// From now on one commit of so many is cut; 0: none.
    pub(crate) fn cut_every(&self, commits: usize) {
        self.every.store(commits, Ordering::Relaxed);
    }

    /// Lets nothing through; what is sent meanwhile arrives later.
    pub(crate) fn stall(&self, stalled: bool) {
        self.stalled.send_replace(stalled);
    }

    /// How many commits were cut that way: of those after the answer, only what was committed.
    pub(crate) fn hits(&self, cut: Cut) -> usize {
        self.hits[cut as usize].load(Ordering::Relaxed)
    }
}

impl Wire for Cuts {
    async fn carry(&self, client: TcpStream, server: TcpStream) -> Result<()> {
        Link::new(client, server, self).run().await
    }
}

impl Cuts {
    /// What happens to the next commit.
    fn next(&self) -> Option<Cut> {
        const TURNS: [Cut; 3] = [Cut::Before, Cut::Amid, Cut::After];
        let every = self.every.load(Ordering::Relaxed);
        let number = self.commits.fetch_add(1, Ordering::Relaxed);
        if every == 0 || number % every != every - 1 {
            return None;
        }
        // Silence lasts: a writer that isn't answered waits twelve seconds.
        Some(match self.cuts.fetch_add(1, Ordering::Relaxed) {
            20 => Cut::SilentBefore,
            21 => Cut::SilentAfter,
            cut => TURNS[cut % TURNS.len()],
        })
    }

    fn note(&self, cut: Cut) {
        self.hits[cut as usize].fetch_add(1, Ordering::Relaxed);
    }

    async fn flowing(&self) {
        // The sender lives as long as this.
        let _ = self.stalled.subscribe().wait_for(|stalled| !stalled).await;
    }
}

/// One connection.
struct Link<'a> {
    client: TcpStream,
    server: TcpStream,
    cuts: &'a Cuts,
    /// What the client sent that is no whole message yet.
    rest: BytesMut,
    greeted: bool,
    /// The names of prepared statements that commit.
    commits: HashSet<Bytes>,
}

impl<'a> Link<'a> {
    fn new(client: TcpStream, server: TcpStream, cuts: &'a Cuts) -> Self {
        Self {
            client,
            server,
            cuts,
            rest: BytesMut::new(),
            greeted: false,
            commits: HashSet::new(),
        }
    }

    async fn run(mut self) -> Result<()> {
        let mut answer = vec![0; 1 << 16];
        loop {
            self.cuts.flowing().await;
            tokio::select! {
                read = self.client.read_buf(&mut self.rest) => if read? == 0 { return Ok(()) },
                read = self.server.read(&mut answer) => match read? {
                    0 => return Ok(()),
                    read => self.client.write_all(&answer[..read]).await?,
                },
            }
            self.cuts.flowing().await;
            while let Some(message) = self.next_message() {
                if let Some(cut) = self.cut_at(&message) {
                    return self.cut(cut, message).await;
                }
                self.server.write_all(&message).await?;
            }
        }
    }

    /// The client's next message, once it is there whole. The first ones have no type.
    fn next_message(&mut self) -> Option<Bytes> {
        const ENCRYPT: [u32; 2] = [80_877_103, 80_877_104];
        let typed = usize::from(self.greeted);
        let length = self.rest.get(typed..typed + 4)?;
        let whole = typed + usize::try_from(u32::from_be_bytes(length.try_into().ok()?)).ok()?;
        if self.rest.len() < whole {
            return None;
        }
        let message = self.rest.split_to(whole).freeze();
        if !self.greeted {
            let code = message.get(4..8)?.get_u32();
            self.greeted = !ENCRYPT.contains(&code);
        }
        Some(message)
    }

    /// Whether a message is a commit's first, and what shall happen to that.
    fn cut_at(&mut self, message: &Bytes) -> Option<Cut> {
        let mut texts = message.get(5..)?.split(|byte| *byte == 0);
        let (first, second) = (texts.next()?, texts.next()?);
        match message[0] {
            b'P' if contains(second, b"chain_fence(") => {
                self.commits.insert(Bytes::copy_from_slice(first));
                None
            }
            b'B' if self.commits.contains(second) => self.cuts.next(),
            _ => None,
        }
    }

    async fn cut(mut self, cut: Cut, bind: Bytes) -> Result<()> {
        if matches!(cut, Cut::Before | Cut::SilentBefore) {
            self.cuts.note(cut);
            return self.fall_silent(cut).await;
        }
        self.server.write_all(&bind).await?;
        loop {
            while let Some(message) = self.next_message() {
                self.server.write_all(&message).await?;
                if message[0] == b'S' {
                    return self.keep_the_answer(cut).await;
                }
            }
            if self.client.read_buf(&mut self.rest).await? == 0 {
                return Ok(());
            }
        }
    }

    /// Waits for the answer if the cut is after it; it counts if it says that all is committed.
    async fn keep_the_answer(mut self, cut: Cut) -> Result<()> {
        if cut == Cut::Amid {
            self.cuts.note(cut);
            return Ok(());
        }
        let mut answer = BytesMut::new();
        let mut done = false;
        loop {
            while let Some(message) = next_answer(&mut answer) {
                match message[0] {
                    b'C' => done = true,
                    b'Z' => {
                        if done {
                            self.cuts.note(cut);
                        }
                        return self.fall_silent(cut).await;
                    }
                    _ => {}
                }
            }
            if self.server.read_buf(&mut answer).await? == 0 {
                return Ok(());
            }
        }
    }

    /// Nobody hears anything until the client gives up, if the cut is a silent one.
    async fn fall_silent(mut self, cut: Cut) -> Result<()> {
        while cut.is_silent() && self.client.read_buf(&mut self.rest).await? > 0 {
            self.rest.clear();
        }
        Ok(())
    }
}

fn next_answer(answer: &mut BytesMut) -> Option<Bytes> {
    let length = answer.get(1..5)?.try_into().ok()?;
    let whole = 1 + usize::try_from(u32::from_be_bytes(length)).ok()?;
    (answer.len() >= whole).then(|| answer.split_to(whole).freeze())
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|window| window == wanted)
}
