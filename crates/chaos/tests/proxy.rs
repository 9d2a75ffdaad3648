//! Real connections through a proxy, in all kinds of trouble.

use std::io::ErrorKind;
use std::time::Duration;

use anyhow::Result;
use chaos::{Network, Proxy, Trouble};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

/// Nothing that arrives takes so long here.
const SILENCE: Duration = Duration::from_millis(200);

/// A proxy in front of a server that says everything back.
async fn echo() -> Result<Proxy> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let proxy = Proxy::over(Network::default()).await?;
    proxy.lead_to(listener.local_addr()?);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = copy(&mut read, &mut write).await;
            });
        }
    });
    Ok(proxy)
}

/// What comes back of a word.
async fn said_back(stream: &mut TcpStream, word: &[u8]) -> Result<Vec<u8>> {
    stream.write_all(word).await?;
    let mut back = vec![0; word.len()];
    stream.read_exact(&mut back).await?;
    Ok(back)
}

async fn is_silent(stream: &mut TcpStream, word: &[u8]) -> bool {
    timeout(SILENCE, said_back(stream, word)).await.is_err()
}

#[tokio::test]
async fn without_trouble_all_arrives_and_the_end_as_well() -> Result<()> {
    let proxy = echo().await?;
    let mut stream = TcpStream::connect(proxy.address()).await?;
    let much = vec![7; 1 << 20];
    let (mut read, mut write) = stream.split();
    let mut back = Vec::new();
    let sending = async {
        write.write_all(&much).await?;
        write.shutdown().await
    };
    tokio::try_join!(sending, read.read_to_end(&mut back))?;
    assert!(back == much, "{} bytes came back", back.len());
    Ok(())
}

#[tokio::test]
async fn what_is_delayed_comes_late_and_in_order() -> Result<()> {
    let proxy = echo().await?;
    let mut stream = TcpStream::connect(proxy.address()).await?;
    proxy.wire().turn(Trouble::Delay(Duration::from_millis(60)));
    let begin = Instant::now();
    assert_eq!(said_back(&mut stream, b"first").await?, b"first");
    assert!(begin.elapsed() >= Duration::from_millis(120), "both ways");
    Ok(())
}

#[tokio::test]
async fn what_is_stalled_comes_when_that_is_over() -> Result<()> {
    let proxy = echo().await?;
    let mut stream = TcpStream::connect(proxy.address()).await?;
    proxy.wire().turn(Trouble::Stall);
    assert!(is_silent(&mut stream, b"kept").await);
    proxy.wire().turn(Trouble::None);
    let mut back = [0; 4];
    stream.read_exact(&mut back).await?;
    assert_eq!(&back, b"kept");
    Ok(())
}

#[tokio::test]
async fn what_a_black_hole_swallowed_never_comes_and_its_connection_stays_silent() -> Result<()> {
    let proxy = echo().await?;
    let mut old = TcpStream::connect(proxy.address()).await?;
    assert_eq!(said_back(&mut old, b"before").await?, b"before");
    proxy.wire().turn(Trouble::Blackhole);
    assert!(is_silent(&mut old, b"lost").await);
    proxy.wire().turn(Trouble::None);
    assert!(is_silent(&mut old, b"silent").await);
    let mut new = TcpStream::connect(proxy.address()).await?;
    assert_eq!(said_back(&mut new, b"after").await?, b"after");
    Ok(())
}

#[tokio::test]
async fn a_half_open_connection_works_in_one_direction() -> Result<()> {
    for (trouble, server_hears) in [(Trouble::Deaf, false), (Trouble::Mute, true)] {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let proxy = Proxy::over(Network::default()).await?;
        proxy.lead_to(listener.local_addr()?);
        let mut client = TcpStream::connect(proxy.address()).await?;
        let (mut server, _) = listener.accept().await?;
        proxy.wire().turn(trouble);
        client.write_all(b"to the server").await?;
        server.write_all(b"to the client").await?;
        let mut chunk = [0; 64];
        let heard = timeout(SILENCE, server.read(&mut chunk)).await;
        assert_eq!(heard.is_ok(), server_hears, "{trouble:?}");
        let heard = timeout(SILENCE, client.read(&mut chunk)).await;
        assert_eq!(heard.is_ok(), !server_hears, "{trouble:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_reset_breaks_off_both_ends_of_what_is_open_and_nothing_else() -> Result<()> {
    let proxy = echo().await?;
    let mut old = TcpStream::connect(proxy.address()).await?;
    assert_eq!(said_back(&mut old, b"before").await?, b"before");
    proxy.wire().reset();
    let ended = old.read(&mut [0; 1]).await;
    assert_eq!(
        ended.map_err(|error| error.kind()),
        Err(ErrorKind::ConnectionReset)
    );
    let mut new = TcpStream::connect(proxy.address()).await?;
    assert_eq!(said_back(&mut new, b"after").await?, b"after");
    Ok(())
}
