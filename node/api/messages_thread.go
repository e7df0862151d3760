package api

import "encoding/json"

// Threads of /v1/messages: a conversation that the server holds, so that a client sends
// only what is new. Anthropic's clients use them to run tools.

// messageThread is a conversation up to an answer's end.
type messageThread struct {
	System   json.RawMessage
	Tools    []json.RawMessage
	Messages []messageIn
}

// resume puts an earlier conversation before the request's messages, and returns how many
// messages that has.
func (r *messagesRequest) resume(past *recollection) (int, error) {
	t := past.thread(r.Thread.Previous)
	if t == nil {
		return 0, &Error{Kind: NoThread, Param: "thread.previous_message_id", Message: "thread.previous_message_id: there is no such conversation, or not any more: send all of it again, with thread.type create"}
	}
	if !present(r.System) {
		r.System = t.System
	}
	if r.Tools == nil {
		r.Tools = t.Tools
	}
	r.Messages = append(t.Messages[:len(t.Messages):len(t.Messages)], r.Messages...)
	return len(t.Messages), nil
}

// keepThread stores the conversation that a request continued, with its answer.
func (c *recollection) keepThread(r *messagesRequest, answer *messageAnswer) {
	content, err := json.Marshal(answer.Content)
	if err != nil {
		return
	}
	last := messageIn{Role: "assistant", Content: content}
	t := &messageThread{r.System, r.Tools, append(r.Messages[:len(r.Messages):len(r.Messages)], last)}
	size := keptExtra + len(t.System)
	for _, raw := range t.Tools {
		size += keptExtra + len(raw)
	}
	for _, m := range t.Messages {
		size += keptExtra + len(m.Content)
	}
	c.put(answer.ID, &keptAnswer{thread: t, bytes: size})
}

// thread returns the conversation up to an answer; nil: there is none.
func (c *recollection) thread(id string) *messageThread {
	if a := c.answer("msg_", id); a != nil {
		return a.thread
	}
	return nil
}
