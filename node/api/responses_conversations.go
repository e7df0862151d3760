package api

import (
	"encoding/json"
	"net/http"
	"slices"
	"time"
)

// Conversations of OpenAI's API: lists of items that /v1/responses reads and extends. They
// are kept as answers are, for an hour after the last change.

// conversation is the object as clients see it.
type conversation struct {
	ID        string          `json:"id"`
	Object    string          `json:"object"`     // conversation
	CreatedAt int64           `json:"created_at"` // Unix seconds
	Metadata  json.RawMessage `json:"metadata"`
}

func noConversation(id string) *Error {
	return Errorf(NotFound, "Conversation with id '%.64s' not found.", id)
}

// conversationID reads the field conversation: an id, or an object with one.
func conversationID(raw json.RawMessage) (id string, err error) {
	if !present(raw) {
		return "", nil
	}
	if first(raw) != '{' {
		return id, decodeAt("conversation", raw, &id)
	}
	var c struct {
		ID string `json:"id"`
	}
	return c.ID, decodeAt("conversation", raw, &c)
}

// extend puts a changed copy in the place of a conversation, and returns it; nil: there is
// no such conversation, or it has become too large, and is dropped.
func (c *recollection) extend(id string, change func(items []json.RawMessage) []json.RawMessage) *keptAnswer {
	c.kept.mu.Lock()
	defer c.kept.mu.Unlock()
	own := c.kept.callers[c.caller]
	if own == nil || own.answers[id] == nil {
		return nil
	}
	old := own.answers[id]
	a := newConversation(old.body, change(slices.Clone(old.input)))
	c.kept.drop(c.caller, id)
	if !c.kept.put(c.caller, id, a) {
		return nil
	}
	return a
}

func newConversation(body json.RawMessage, items []json.RawMessage) *keptAnswer {
	a := &keptAnswer{body: body, input: items, bytes: len(body) + keptExtra}
	for _, raw := range items {
		a.bytes += len(raw) + keptExtra
	}
	return a
}

// ---- endpoints ------------------------------------------------------------

// createConversation answers POST /v1/conversations.
func (s *server) createConversation(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Items    []json.RawMessage `json:"items"`
		Metadata json.RawMessage   `json:"metadata"`
	}
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	items, err := newItems(in.Items)
	if err != nil {
		return err
	}
	if !present(in.Metadata) {
		in.Metadata = json.RawMessage("{}")
	}
	c := conversation{newID("conv_"), "conversation", time.Now().Unix(), in.Metadata}
	body, err := json.Marshal(c)
	if err != nil {
		return badParam("metadata", "cannot be read")
	}
	if !s.kept.of(r).put(c.ID, newConversation(body, items)) {
		return Errorf(TooLarge, "the items are longer than %d MiB", keptBytes>>20)
	}
	writeJSON(w, http.StatusOK, json.RawMessage(body))
	return nil
}

// newItems returns items of a request as they are listed.
func newItems(in []json.RawMessage) ([]json.RawMessage, error) {
	if len(in) > maxMessages {
		return nil, badParam("items", "holds %d items: %d is the most", len(in), maxMessages)
	}
	out := make([]json.RawMessage, len(in))
	for i, raw := range in {
		if first(raw) != '{' {
			return nil, badParam("items", "must hold objects")
		}
		out[i] = listed(raw)
	}
	return out, nil
}

// conversation answers GET /v1/conversations/{id}.
func (s *server) conversation(w http.ResponseWriter, r *http.Request) error {
	a := s.kept.of(r).answer("conv_", r.PathValue("id"))
	if a == nil {
		return noConversation(r.PathValue("id"))
	}
	writeJSON(w, http.StatusOK, a.body)
	return nil
}

// deleteConversation answers DELETE /v1/conversations/{id}.
func (s *server) deleteConversation(w http.ResponseWriter, r *http.Request) error {
	if !s.kept.of(r).forget("conv_", r.PathValue("id")) {
		return noConversation(r.PathValue("id"))
	}
	writeJSON(w, http.StatusOK, deletion{r.PathValue("id"), "conversation.deleted", true})
	return nil
}

// conversationItems answers GET /v1/conversations/{id}/items.
func (s *server) conversationItems(w http.ResponseWriter, r *http.Request) error {
	a := s.kept.of(r).answer("conv_", r.PathValue("id"))
	if a == nil {
		return noConversation(r.PathValue("id"))
	}
	return writeItems(w, r, a.input)
}

// addItems answers POST /v1/conversations/{id}/items with the items that it added.
func (s *server) addItems(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Items []json.RawMessage `json:"items"`
	}
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	items, err := newItems(in.Items)
	if err != nil {
		return err
	}
	if s.kept.of(r).extend(r.PathValue("id"), func(old []json.RawMessage) []json.RawMessage { return append(old, items...) }) == nil {
		return noConversation(r.PathValue("id"))
	}
	writeJSON(w, http.StatusOK, itemPage(items, 0, len(items)))
	return nil
}

// conversationItem answers GET /v1/conversations/{id}/items/{item}.
func (s *server) conversationItem(w http.ResponseWriter, r *http.Request) error {
	a := s.kept.of(r).answer("conv_", r.PathValue("id"))
	if a == nil {
		return noConversation(r.PathValue("id"))
	}
	for _, raw := range a.input {
		if itemID(raw) == r.PathValue("item") {
			writeJSON(w, http.StatusOK, raw)
			return nil
		}
	}
	return Errorf(NotFound, "Item with id '%.64s' not found.", r.PathValue("item"))
}

// deleteItem answers DELETE /v1/conversations/{id}/items/{item} with the conversation.
func (s *server) deleteItem(w http.ResponseWriter, r *http.Request) error {
	a := s.kept.of(r).extend(r.PathValue("id"), func(old []json.RawMessage) []json.RawMessage {
		return slices.DeleteFunc(old, func(raw json.RawMessage) bool { return itemID(raw) == r.PathValue("item") })
	})
	if a == nil {
		return noConversation(r.PathValue("id"))
	}
	writeJSON(w, http.StatusOK, a.body)
	return nil
}
