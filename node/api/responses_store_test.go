package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// kept is what the tests read of an answer.
type kept struct {
	ID       string
	Previous string `json:"previous_response_id"`
	Store    bool
	Output   []struct {
		ID      string
		Content []struct{ Text string }
	}
	Usage struct {
		Input int `json:"input_tokens"`
	}
	Data []struct {
		ID, Type, Role string
		Content        []struct{ Type, Text string }
	}
	HasMore bool `json:"has_more"`
	Error   struct{ Message, Type, Code, Param string }
}

func keptOf(t *testing.T, text string) (out kept) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return out
}

// TestResponseKept: answers can be continued from, read and deleted, by their caller.
func TestResponseKept(t *testing.T) {
	url := start(t, &speller{}, nil).URL + "/v1/responses"
	ada := []string{"Authorization", "Bearer ada"}
	_, text := post(t, url, `{"input":"one","instructions":"I."}`, ada...)
	first := keptOf(t, text)
	_, text = post(t, url, `{"input":[{"role":"user","content":"two"}],"stream":true,"previous_response_id":"`+first.ID+`"}`, ada...)
	if !strings.Contains(text, `"previous_response_id":"`+first.ID+`"`) {
		t.Error(text)
	}
	_, last, _ := strings.Cut(text, "event: response.completed\ndata: ")
	var event struct{ Response kept }
	if err := json.Unmarshal([]byte(last), &event); err != nil {
		t.Fatal(err)
	}
	second := event.Response
	// Instructions are of one request only.
	if want := len("<user>one<assistant>one<user>two"); second.Usage.Input != want || second.Output[0].Content[0].Text != "two" {
		t.Errorf("read %d tokens, want %d: %s", second.Usage.Input, want, last)
	}
	_, text = post(t, url, `{"input":[{"type":"item_reference","id":"`+second.Output[0].ID+`"},{"id":"`+first.Output[0].ID+`"},{"role":"user","content":"three"}]}`, ada...)
	if got := keptOf(t, text); got.Usage.Input != len("<assistant>two<assistant>one<user>three") {
		t.Error(text)
	}
	// Reading.
	if resp, text := do(t, "GET", url+"/"+first.ID, "", ada...); resp.StatusCode != 200 || !reflect.DeepEqual(keptOf(t, text), first) {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
	_, text = do(t, "GET", url+"/"+second.ID+"/input_items?order=asc", "", ada...)
	list := keptOf(t, text)
	if len(list.Data) != 3 || list.HasMore || list.Data[1].ID != first.Output[0].ID || list.Data[2].Content[0].Text != "two" || list.Data[2].Content[0].Type != "input_text" || list.Data[0].Type != "message" || list.Data[0].ID == "" {
		t.Error(text)
	}
	_, text = do(t, "GET", url+"/"+second.ID+"/input_items?limit=1&after="+list.Data[2].ID, "", ada...)
	if page := keptOf(t, text); len(page.Data) != 1 || page.Data[0].ID != list.Data[1].ID || !page.HasMore {
		t.Error(text)
	}
	// Nobody else finds it.
	missing := "resp_0"
	for _, id := range []string{first.ID, missing} {
		for _, ask := range [][2]string{{"GET", ""}, {"DELETE", ""}, {"GET", "/input_items"}, {"POST", "/cancel"}} {
			resp, text := do(t, ask[0], url+"/"+id+ask[1], "{}", "Authorization", "Bearer bob", "Content-Type", "application/json")
			if e := keptOf(t, text).Error; resp.StatusCode != http.StatusNotFound || e.Message != "Response with id '"+id+"' not found." || e.Type != "invalid_request_error" {
				t.Errorf("%s %s: %d %s", ask[0], ask[1], resp.StatusCode, text)
			}
		}
	}
	resp, text := post(t, url, `{"input":"x","previous_response_id":"`+first.ID+`"}`, "X-Api-Key", "ada")
	if e := keptOf(t, text).Error; resp.StatusCode != http.StatusBadRequest || e.Code != "previous_response_not_found" || e.Param != "previous_response_id" || e.Message != "Previous response with id '"+first.ID+"' not found." {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
	resp, text = post(t, url, `{"input":[{"type":"item_reference","id":"`+first.Output[0].ID+`"}]}`)
	if e := keptOf(t, text).Error; resp.StatusCode != http.StatusNotFound || e.Param != "input[0]" || !strings.HasPrefix(e.Message, "Item with id '"+first.Output[0].ID+"' not found.") {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
	// Not kept at all, and deleted.
	_, text = post(t, url, `{"input":"x","store":false}`, ada...)
	if got := keptOf(t, text); got.Store {
		t.Error(text)
	} else if resp, _ := do(t, "GET", url+"/"+got.ID, "", ada...); resp.StatusCode != http.StatusNotFound {
		t.Error("it was kept")
	}
	if resp, text := post(t, url+"/"+first.ID+"/cancel", "{}", ada...); resp.StatusCode != http.StatusBadRequest || !strings.Contains(text, "Cannot cancel a synchronous response.") {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
	if resp, text := do(t, "DELETE", url+"/"+first.ID, "", ada...); resp.StatusCode != 200 || !strings.Contains(text, `"deleted":true`) {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
	if resp, _ := do(t, "GET", url+"/"+first.ID, "", ada...); resp.StatusCode != http.StatusNotFound {
		t.Error("it is still there")
	}
	// A conversation that was continued does not depend on the answer before.
	if resp, text := post(t, url, `{"input":"x","previous_response_id":"`+second.ID+`"}`, ada...); resp.StatusCode != 200 {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
}

// TestConversations: the list of items that answers extend.
func TestConversations(t *testing.T) {
	url := start(t, &speller{}, nil).URL + "/v1"
	ada := []string{"Authorization", "Bearer ada", "Content-Type", "application/json"}
	_, text := do(t, "POST", url+"/conversations", `{"metadata":{"a":"b"},"items":[{"type":"message","role":"user","content":"one"}]}`, ada...)
	c := keptOf(t, text)
	if !strings.HasPrefix(c.ID, "conv_") || !strings.Contains(text, `"metadata":{"a":"b"}`) {
		t.Fatal(text)
	}
	_, text = do(t, "POST", url+"/responses", `{"input":"two","store":false,"conversation":"`+c.ID+`"}`, ada...)
	if got := keptOf(t, text); got.Usage.Input != len("<user>one<user>two") || !strings.Contains(text, `"conversation":{"id":"`+c.ID+`"}`) {
		t.Error(text)
	}
	_, text = do(t, "POST", url+"/conversations/"+c.ID+"/items", `{"items":[{"role":"user","content":"more"}]}`, ada...)
	added := keptOf(t, text)
	if len(added.Data) != 1 || added.Data[0].ID == "" {
		t.Error(text)
	}
	_, text = do(t, "POST", url+"/responses", `{"input":"three","stream":true,"conversation":{"id":"`+c.ID+`"}}`, ada...)
	if !strings.Contains(text, fmt.Sprintf(`"input_tokens":%d`, len("<user>one<user>two<assistant>two<user>more<user>three"))) {
		t.Error(text)
	}
	items := func() (roles []string) {
		_, text := do(t, "GET", url+"/conversations/"+c.ID+"/items?order=asc", "", ada...)
		for _, item := range keptOf(t, text).Data {
			roles = append(roles, item.Role+" "+item.Content[0].Text)
		}
		return roles
	}
	if got, want := items(), []string{"user one", "user two", "assistant two", "user more", "user three", "assistant three"}; !reflect.DeepEqual(got, want) {
		t.Errorf("holds %q, want %q", got, want)
	}
	if resp, text := do(t, "GET", url+"/conversations/"+c.ID+"/items/"+added.Data[0].ID, "", ada...); resp.StatusCode != 200 || !strings.Contains(text, `"more"`) {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
	if resp, text := do(t, "DELETE", url+"/conversations/"+c.ID+"/items/"+added.Data[0].ID, "", ada...); resp.StatusCode != 200 || len(items()) != 5 {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
	if resp, text := do(t, "POST", url+"/responses", `{"input":"x","conversation":"`+c.ID+`","previous_response_id":"resp_1"}`, ada...); resp.StatusCode != http.StatusBadRequest || keptOf(t, text).Error.Param != "conversation" {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
	missing := func(method, path, body, key string) {
		t.Helper()
		resp, text := do(t, method, url+path, body, "Authorization", "Bearer "+key, "Content-Type", "application/json")
		if resp.StatusCode != http.StatusNotFound || !strings.HasSuffix(keptOf(t, text).Error.Message, "not found.") {
			t.Errorf("%s %s: %d %s", method, path, resp.StatusCode, text)
		}
	}
	missing("GET", "/conversations/"+c.ID, "", "bob")
	missing("GET", "/responses/"+c.ID, "", "ada")
	missing("DELETE", "/responses/"+c.ID, "", "ada")
	missing("POST", "/responses", `{"input":"x","conversation":"`+c.ID+`"}`, "bob")
	missing("POST", "/conversations/"+c.ID+"/items", `{"items":[]}`, "bob")
	missing("GET", "/conversations/"+c.ID+"/items/msg_0", "", "ada")
	if resp, text := do(t, "DELETE", url+"/conversations/"+c.ID, "", ada...); resp.StatusCode != 200 || !strings.Contains(text, `"object":"conversation.deleted"`) {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
	missing("GET", "/conversations/"+c.ID, "", "ada")
	missing("DELETE", "/conversations/"+c.ID, "", "ada")
}

// TestKeptBounds: the store never holds more than its limits, one caller does not drive
// out another's answers, and after an hour all are gone.
func TestKeptBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most, room = 50, 200 << 10
		k := newKeptAnswers(most, room)
		put := func(name byte, id string, size int) {
			c := &recollection{k, callerID{name}}
			text := strings.Repeat("x", size)
			c.keep(&responseJob{input: []json.RawMessage{quoted(text)}}, &response{ID: id, Store: true, Output: []*responseItem{{ID: "msg_" + id}}})
		}
		check := func() {
			t.Helper()
			answers, bytes := 0, 0
			for _, own := range k.callers {
				answers += len(own.answers)
				bytes += own.bytes
				if len(own.order) != len(own.answers) || len(own.items) != len(own.answers) {
					t.Fatalf("%d answers, %d items, %d in order", len(own.answers), len(own.items), len(own.order))
				}
			}
			if answers != k.count || bytes != k.bytes || k.count > most || k.bytes > room {
				t.Fatalf("holds %d answers and %d bytes, and counts %d and %d", answers, bytes, k.count, k.bytes)
			}
		}
		put(1, "quiet", 1000)
		for i := range most + 10 {
			put(2, fmt.Sprint("small", i), 10)
		}
		check()
		for i := range 20 {
			put(2, fmt.Sprint("big", i), room/8)
			check()
		}
		put(2, "huge", room)
		check()
		one, two := &recollection{k, callerID{1}}, &recollection{k, callerID{2}}
		if one.answer("", "quiet") == nil || two.answer("", "quiet") != nil || two.answer("", "big19") == nil || two.answer("", "big0") != nil || two.answer("", "small9") != nil || two.answer("", "huge") != nil {
			t.Error("the wrong ones were dropped")
		}
		if _, err := two.item("input[0]", "msg_big19"); err != nil {
			t.Error(err)
		}
		time.Sleep(keptTime + time.Second)
		synctest.Wait()
		if len(k.callers) != 0 || k.count != 0 || k.bytes != 0 {
			t.Errorf("after an hour it holds %d answers and %d bytes", k.count, k.bytes)
		}
	})
}

// TestResponseTruncation: with auto, the oldest turns go until the input fits.
func TestResponseTruncation(t *testing.T) {
	url := start(t, &speller{}, nil).URL + "/v1/responses"
	turn := func(n int) string {
		return fmt.Sprintf(`{"role":"user","content":"%s"},{"role":"assistant","content":"a"}`, strings.Repeat("x", n))
	}
	ask := func(truncation, input string) (*http.Response, kept) {
		resp, text := post(t, url, `{"instructions":"Rules.","truncation":"`+truncation+`","input":[`+input+`]}`)
		return resp, keptOf(t, text)
	}
	long := turn(2000) + "," + turn(2000) + "," + turn(1000) + `,{"role":"user","content":"last"}`
	if resp, got := ask("disabled", long); resp.StatusCode != http.StatusBadRequest || got.Error.Code != string(TooLong) {
		t.Errorf("%d %+v", resp.StatusCode, got)
	}
	resp, got := ask("auto", long)
	if want := len("<system>Rules.<user><assistant>a<user><assistant>a<user>last") + 3000; resp.StatusCode != 200 || got.Usage.Input != want || got.Output[0].Content[0].Text != "last" {
		t.Errorf("%d %+v, want %d tokens", resp.StatusCode, got, want)
	}
	if resp, got := ask("auto", turn(2)+`,{"role":"user","content":"last"}`); resp.StatusCode != 200 || got.Usage.Input != len("<system>Rules.<user>xx<assistant>a<user>last") {
		t.Errorf("what fits was cut: %+v", got)
	}
	// One turn of many calls, and one message that does not fit at all.
	call := func(id string, n int) string {
		return fmt.Sprintf(`{"type":"function_call","call_id":"%s","name":"f","arguments":"{}"},{"type":"function_call_output","call_id":"%s","output":"%s"}`, id, id, strings.Repeat("y", n))
	}
	resp, got = ask("auto", `{"role":"user","content":"go"},`+call("1", 3000)+","+call("2", 3000))
	if want := len("<system>Rules.<user>go<assistant><tool>") + 3000; resp.StatusCode != 200 || got.Usage.Input != want {
		t.Errorf("%d %+v, want %d tokens", resp.StatusCode, got, want)
	}
	if resp, got := ask("auto", `{"role":"user","content":"`+strings.Repeat("z", 5000)+`"}`); resp.StatusCode != http.StatusBadRequest || got.Error.Code != string(TooLong) {
		t.Errorf("%d %+v", resp.StatusCode, got)
	}
}
