//! The yardstick: the least that a program for this job can do. lapin and reqwest, a task per delivery, an ack each. No
//! retries, no pace, no metrics, no dead letters, no signature renewal.
use std::collections::HashMap;
use std::sync::Arc;

use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};

/// Runs until it is killed. Settings come in the variables that the daemon reads.
pub(crate) async fn run() -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let env: HashMap<String, String> = std::env::vars().collect();
    let connection =
        Connection::connect(&env["CONVGROUP_AMQP__URL"], ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel
        .basic_qos(
            env["CONVGROUP_AMQP__PREFETCH"].parse()?,
            BasicQosOptions::default(),
        )
        .await?;
    let queue = env["CONVGROUP_AMQP__QUEUE"].as_str();
    let mut deliveries = channel
        .basic_consume(
            queue.into(),
            "bare".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;
    let url: Arc<str> = env["BARE_URL"].as_str().into();
    let client = reqwest::Client::new();
    while let Some(delivery) = deliveries.next().await {
        let delivery = delivery?;
        let (client, url) = (client.clone(), Arc::clone(&url));
        tokio::spawn(async move {
            let event: serde_json::Value = serde_json::from_slice(&delivery.data)?;
            let reply = client
                .post(&*url)
                .body(event.to_string())
                .send()
                .await?
                .bytes()
                .await?;
            let reply: serde_json::Value = serde_json::from_slice(&reply)?;
            anyhow::ensure!(reply["ErrorCode"] == 0, "not deleted: {reply}");
            delivery.ack(BasicAckOptions::default()).await?;
            anyhow::Ok(())
        });
    }
    Ok(())
}
