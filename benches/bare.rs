//! The yardstick: the least that a program for this job can do. lapin and reqwest, a task per delivery, an ack each. No
//! retries, no pace, no metrics, no dead letters, no signature renewal. With answers it publishes one message for each event, and acks
//! after its confirm.
use std::collections::HashMap;
use std::sync::Arc;

use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

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
    let answers = match env.get("CONVGROUP_OUTCOMES__EXCHANGE") {
        Some(exchange) => Some(Answers::open(&env["CONVGROUP_AMQP__URL"], exchange).await?),
        None => None,
    };
    let answers = answers.map(Arc::new);
    while let Some(delivery) = deliveries.next().await {
        let delivery = delivery?;
        let (client, url, answers) = (client.clone(), Arc::clone(&url), answers.clone());
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
            if let Some(answers) = answers {
                answers.publish(&delivery.data).await?;
            }
            delivery.ack(BasicAckOptions::default()).await?;
            anyhow::Ok(())
        });
    }
    Ok(())
}

/// A connection that publishes answers.
struct Answers {
    channel: Channel,
    exchange: String,
    /// Dropped, it would close.
    _connection: Connection,
}

impl Answers {
    async fn open(url: &str, exchange: &str) -> anyhow::Result<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        Ok(Self {
            channel,
            exchange: exchange.to_owned(),
            _connection: connection,
        })
    }

    /// Publishes a message about as large as an answer, and waits for its confirm.
    async fn publish(&self, event: &[u8]) -> anyhow::Result<()> {
        let body = event.repeat(600 / event.len() + 1);
        let (exchange, key) = (self.exchange.as_str().into(), "erased.none".into());
        let properties = BasicProperties::default().with_delivery_mode(2);
        let options = BasicPublishOptions::default();
        self.channel
            .basic_publish(exchange, key, options, &body, properties)
            .await?
            .await?;
        Ok(())
    }
}
