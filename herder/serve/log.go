package serve

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"narfold/internal/compress"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// log serves a build log. Builders keep logs compressed, Guix by gzip and Nix by bzip2. guix publish sends them as they are, with
// "Content-Encoding: gzip" or "application/x-bzip2" whatever the client accepts; the second is no coding of HTTP, so that browsers
// and curl show noise. Here a log is expanded on its way, but for a client that accepts the gzip in which it is kept: the text is
// what nix log, curl and browsers all can show.
func (s *Server) log(w http.ResponseWriter, r *http.Request) {
	of, err := storepath.ParseBase(r.PathValue("of"))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	k, err := s.Catalogue.Log(r.Context(), of)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	o, err := s.Objects.Get(r.Context(), k, objstore.Range{})
	if err != nil {
		s.fail(w, r, lost(k, err))
		return
	}
	defer o.Close()
	kept := bufio.NewReader(o)
	method, err := sniff(kept)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	body := io.Reader(kept)
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", maxAge(s.ttl()))
	h.Set("Vary", "Accept-Encoding")
	switch {
	case method == compress.Gzip && acceptsGzip(r.Header.Values("Accept-Encoding")):
		h.Set("Content-Encoding", "gzip")
		h.Set("Content-Length", fmt.Sprint(o.Info.Size))
	case method == compress.None:
		h.Set("Content-Length", fmt.Sprint(o.Info.Size))
	default:
		z, err := compress.NewReader(method, kept)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		defer z.Close()
		body = z
	}
	s.counters.files.Add(1)
	if r.Method == http.MethodHead {
		return
	}
	if _, err := io.Copy(w, body); err != nil {
		if r.Context().Err() == nil {
			s.Log.Error("log is cut", "path", r.URL.Path, "object", k, "error", err)
		}
		// A part must not look like the whole, which it would if the answer had no length and just ended.
		panic(http.ErrAbortHandler)
	}
}

// sniff tells by its first bytes how a log is compressed.
func sniff(r *bufio.Reader) (compress.Method, error) {
	head, err := r.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	for magic, m := range map[string]compress.Method{"\x1f\x8b": compress.Gzip, "BZh": compress.Bzip2, "\x28\xb5\x2f\xfd": compress.Zstd, "\xfd7zX": compress.Xz} {
		if strings.HasPrefix(string(head), magic) {
			return m, nil
		}
	}
	return compress.None, nil
}

// acceptsGzip reads Accept-Encoding: gzip is accepted if it is named, or *, with a weight above zero.
func acceptsGzip(values []string) bool {
	accepted := false
	for part := range strings.SplitSeq(strings.Join(values, ","), ",") {
		coding, parameters, _ := strings.Cut(part, ";")
		coding = strings.ToLower(strings.TrimSpace(coding))
		if coding != "gzip" && coding != "x-gzip" && coding != "*" {
			continue
		}
		weight := 1.0
		if q, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(parameters)), "q="); ok {
			weight, _ = strconv.ParseFloat(q, 64)
		}
		if coding != "*" {
			return weight > 0
		}
		accepted = weight > 0
	}
	return accepted
}
