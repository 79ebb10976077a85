//! Conversations.

use wasm_bindgen::prelude::*;

use super::{Engine, Session, json, thrown};
use crate::chat;

/// A conversation in a stream.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Chat {
    pub(super) chat: chat::Chat,
}

#[wasm_bindgen]
impl Chat {
    /// Puts the initial prompts and the history into the empty stream.
    ///
    /// # Errors
    /// As [`chat::Chat::open`].
    pub async fn open(&mut self, engine: &mut Engine, session: &Session) -> Result<(), JsValue> {
        let session = &mut session.parts()?.session;
        self.chat.open(&mut engine.engine, session).await.map_err(thrown)
    }

    /// Questions asked so far.
    #[wasm_bindgen(getter)]
    pub fn turns(&self) -> f64 {
        self.chat.turns() as f64
    }

    /// Puts what the user says into the stream; if an answer is wanted, up to where it begins.
    ///
    /// # Errors
    /// As [`chat::Chat::ask`].
    pub async fn turn(
        &mut self,
        engine: &mut Engine,
        session: &Session,
        text: String,
        wants_answer: bool,
    ) -> Result<(), JsValue> {
        let (engine, session) = (&mut engine.engine, &mut session.parts()?.session);
        let turn = match wants_answer {
            true => self.chat.ask(engine, session, &text).await,
            false => self.chat.tell(engine, session, &text).await,
        };
        turn.map_err(thrown)
    }

    /// Texts that end an answer, besides the model's end tokens.
    pub fn stop(&self) -> Vec<String> {
        self.chat.stop()
    }

    /// Where it stands, for a snapshot of its session.
    pub fn state(&self) -> String {
        self.chat.state().to_string()
    }

    /// Goes on where a snapshot was taken.
    ///
    /// # Errors
    /// [`Error::Settings`] for what is no JSON.
    pub fn resume(&mut self, state: &str) -> Result<(), JsValue> {
        self.chat.resume(&json::parse(state).map_err(thrown)?);
        Ok(())
    }
}
