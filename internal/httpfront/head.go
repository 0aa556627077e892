package httpfront

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Field is one header field.
type Field struct{ Name, Value string }

// Head prepares Answer.Header: the status line, Content-Length unless length is negative, and fields in their order. It refuses
// names and values that are not HTTP's, and the fields that are the front's own: Content-Length, Transfer-Encoding, Connection,
// Date.
func Head(status int, length int64, fields ...Field) ([]byte, error) {
	if status < 200 || status > 599 {
		return nil, fmt.Errorf("prepare header: status %d: want 200 to 599", status)
	}
	b := make([]byte, 0, 256)
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, ' ')
	b = append(b, http.StatusText(status)...)
	b = append(b, "\r\n"...)
	if length >= 0 {
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, length, 10)
		b = append(b, "\r\n"...)
	}
	for _, f := range fields {
		switch strings.ToLower(f.Name) {
		case "content-length", "transfer-encoding", "connection", "date":
			return nil, fmt.Errorf("prepare header: field %s is set by the front", f.Name)
		}
		if !all(f.Name, tokenChar) || f.Name == "" || !all(f.Value, valueChar) || strings.TrimSpace(f.Value) != f.Value {
			return nil, fmt.Errorf("prepare header: field %q: %q is not valid", f.Name, f.Value)
		}
		b = append(b, f.Name...)
		b = append(b, ": "...)
		b = append(b, f.Value...)
		b = append(b, "\r\n"...)
	}
	return b, nil
}

// tails are what follows Answer.Header: the date, renewed every second, and the end of the header.
type tails struct {
	second    int64
	keep, end []byte
}

func newTails(now time.Time) *tails {
	date := "Date: " + now.UTC().Format(http.TimeFormat) + "\r\n"
	return &tails{second: now.Unix(), keep: []byte(date + "\r\n"), end: []byte(date + "Connection: close\r\n\r\n")}
}

// statusOf reads the status from a prepared header, or 0 if it is not one.
func statusOf(header []byte) int {
	if len(header) < 12 {
		return 0
	}
	n := 0
	for _, c := range header[9:12] {
		if c < '0' || c > '9' {
			return 0
		}
		n = n*10 + int(c-'0')
	}
	return n
}
