package api

import (
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"strings"
)

// Many clients have one type for all numbers and write integers as 16.0 or 1e3, in any
// field. encoding/json refuses these where Go has an integer, and says where: so the
// number is rewritten there, and the JSON is read again. All wire types gain from it
// without types of their own, and text that stays raw (a tool's schema, the arguments of
// a call) is not touched.

// maxReread bounds the bytes that are read again because of whole numbers written as
// fractions.
const maxReread = 128 << 20

// decodeWhole calls read, and again with whole numbers rewritten as integers where read
// fails on them. read must return encoding/json's error for raw.
func decodeWhole(raw []byte, read func([]byte) error) error {
	spent := 0
	for {
		err := read(raw)
		var wrong *json.UnmarshalTypeError
		if !errors.As(err, &wrong) {
			return err
		}
		mended := wholeAt(raw, wrong)
		if spent += len(raw); mended == nil || spent > maxReread {
			return err
		}
		raw = mended
	}
}

// wholeAt returns a copy of raw in which the number that an integer could not take is
// written as an integer; nil if it is not whole.
func wholeAt(raw []byte, wrong *json.UnmarshalTypeError) []byte {
	literal, ok := strings.CutPrefix(wrong.Value, "number ")
	from := int(wrong.Offset) - len(literal)
	if !ok || from < 0 || int(wrong.Offset) > len(raw) || string(raw[from:wrong.Offset]) != literal {
		return nil
	}
	n, ok := wholeNumber(literal)
	if !ok || n == literal {
		return nil
	}
	out := append(make([]byte, 0, len(raw)), raw[:from]...)
	return append(append(out, n...), raw[wrong.Offset:]...)
}

// wholeNumber returns a JSON number as an integer's digits; false if it is not whole, or
// larger than a float holds exactly.
func wholeNumber(literal string) (string, bool) {
	if !strings.ContainsAny(literal, ".eE") {
		return literal, true
	}
	f, err := strconv.ParseFloat(literal, 64)
	if err != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
		return "", false
	}
	return strconv.FormatInt(int64(f), 10), true
}
