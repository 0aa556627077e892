package httpfront

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
)

// verdicts lists requests and what the fast loop makes of them.
var verdicts = []struct {
	raw  string
	want verdict
}{
	{"GET /a.narinfo HTTP/1.1\r\nHost: cache\r\n\r\n", plain},
	{"HEAD /a.narinfo HTTP/1.1\r\nHost: cache:8080\r\nConnection: Keep-Alive\r\n\r\n", plain},
	{"GET /nar/zstd/a-gtk%2B-3 HTTP/1.1\r\nhOST:[::1]:80 \t\r\nAccept: */*\r\nX-Empty:\r\n\r\n", plain},
	{"GET /a HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n", plain},
	{"GET /a HTTP/1.1\r\nHost: c\r\nX-Latin: caf\xe9\r\n\r\n", plain},
	{"GET //a/../b HTTP/1.1\r\nHost: c\r\n\r\n", plain}, // exact bytes: Plain has no such path

	{"GET /a?x=1 HTTP/1.1\r\nHost: c\r\n\r\n", once},
	{"GET /a#x HTTP/1.1\r\nHost: c\r\n\r\n", once},
	{"GET /a\"b HTTP/1.1\r\nHost: c\r\n\r\n", once},
	{"GET /a HTTP/1.1\r\nHost: c\r\nRange: bytes=0-1\r\n\r\n", once},
	{"GET /a HTTP/1.1\r\nHost: c\r\nIf-None-Match: \"x\"\r\n\r\n", once},
	{"GET /a HTTP/1.1\r\nHost: c\r\nIf-Match: \"x\"\r\n\r\n", once},
	{"GET /a HTTP/1.1\r\nHost: c\r\nIf-Range: \"x\"\r\n\r\n", once},
	{"GET /a HTTP/1.1\r\nHost: c\r\nif-modified-since: Thu, 01 Jan 1970 00:00:01 GMT\r\n\r\n", once},
	{"GET /a HTTP/1.1\r\nHost: c\r\nIf-Unmodified-Since: Thu, 01 Jan 1970 00:00:01 GMT\r\n\r\n", once},
	{"GET /a HTTP/1.1\r\nHost: c\r\nAuthorization: Basic x\r\n\r\n", once},

	{"", partial}, {"G", partial}, {"GET ", partial}, {"GET /", partial}, {"HEAD", partial},
	{"GET /a HTTP/1.1", partial},
	{"GET /a HTTP/1.1\r\nHost: c\r\n", partial},
	{"GET /a HTTP/1.1\r\nHost: c\r\n\r", partial},

	{"POST /a HTTP/1.1\r\nHost: c\r\nContent-Length: 1\r\n\r\nx", forGood},
	{"GET /a HTTP/1.1\r\nHost: c\r\nContent-Length: 0\r\n\r\n", forGood},
	{"GET /a HTTP/1.1\r\nHost: c\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", forGood},
	{"GET /a HTTP/1.1\r\nHost: c\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", forGood},
	{"GET /a HTTP/1.1\r\nHost: c\r\nTransfer-Encoding : chunked\r\n\r\n", forGood},
	{"GET /a HTTP/1.1\r\nHost: c\r\nTransfer-Encoding\t: chunked\r\n\r\n", forGood},
	{"GET /a HTTP/1.1\r\nHost: c\r\nExpect: 100-continue\r\n\r\n", forGood},
	{"GET /a HTTP/1.1\r\nHost: c\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n\r\n", forGood},
	{"GET /a HTTP/1.1\r\nHost: c\r\nUpgrade: websocket\r\n\r\n", forGood},
	{"GET /a HTTP/1.1\r\nHost: c\r\nTrailer: X\r\n\r\n", forGood},
	{"GET /a HTTP/1.1\r\nHost: c\r\nConnection: close, keep-alive\r\n\r\n", forGood},
	{"GET /a HTTP/1.1\r\nHost: c\r\nConnection: close\r\nConnection: keep-alive\r\n\r\n", forGood},
	{"GET /a HTTP/1.1\r\nHost: c\r\nHost: d\r\n\r\n", forGood},
	{"GET /a HTTP/1.1\r\nHost: c d\r\n\r\n", forGood},
	{"GET /a HTTP/1.1\r\nHost:\r\n\r\n", forGood},
	{"GET /a HTTP/1.1\r\n\r\n", forGood},
	{"GET /a HTTP/1.1\r\nHost: c\r\n X-Folded: y\r\n\r\n", forGood},
	{"GET /a HTTP/1.1\r\n Host: c\r\n\r\n", forGood},
	{"GET /a HTTP/1.1\r\nHost: c\r\nX: a\rb\r\n\r\n", forGood},
	{"GET /a HTTP/1.1\r\nHost: c\r\nX: a\x00b\r\n\r\n", forGood},
	{"GET /a HTTP/1.1\r\nHost: c\r\nX y: a\r\n\r\n", forGood},
	{"GET /a HTTP/1.1\r\nHost: c\r\n: a\r\n\r\n", forGood},
	{"GET /a HTTP/1.1\r\nHost: c\r\nno colon\r\n\r\n", forGood},
	{"GET /a HTTP/1.1\nHost: c\n\n", forGood},
	{"GET /a HTTP/1.1\r\nHost: c\n\r\n", forGood},
	{"GET /a HTTP/1.1\r\r\nHost: c\r\n\r\n", forGood},
	{"GET /a HTTP/1.0\r\nHost: c\r\n\r\n", forGood},
	{"GET /a HTTP/2.0\r\nHost: c\r\n\r\n", forGood},
	{"GET /a http/1.1\r\nHost: c\r\n\r\n", forGood},
	{"GET /a\r\n\r\n", forGood},
	{"GET  /a HTTP/1.1\r\nHost: c\r\n\r\n", forGood},
	{"GET /a  HTTP/1.1\r\nHost: c\r\n\r\n", forGood},
	{"GET /a b HTTP/1.1\r\nHost: c\r\n\r\n", forGood},
	{"GET\t/a HTTP/1.1\r\nHost: c\r\n\r\n", forGood},
	{"GET /%zz HTTP/1.1\r\nHost: c\r\n\r\n", forGood},
	{"GET /% HTTP/1.1\r\nHost: c\r\n\r\n", forGood},
	{"GET /\x80 HTTP/1.1\r\nHost: c\r\n\r\n", forGood},
	{"GET http://c/a HTTP/1.1\r\nHost: c\r\n\r\n", forGood},
	{"GET * HTTP/1.1\r\nHost: c\r\n\r\n", forGood},
	{"OPTIONS * HTTP/1.1\r\nHost: c\r\n\r\n", forGood},
	{"CONNECT c:443 HTTP/1.1\r\nHost: c\r\n\r\n", forGood},
	{"get /a HTTP/1.1\r\nHost: c\r\n\r\n", forGood},
	{"\r\nGET /a HTTP/1.1\r\nHost: c\r\n\r\n", forGood},
	{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", forGood},
	{"\x16\x03\x01", forGood},
}

func TestOnlyPlainRequestsArePlain(t *testing.T) {
	for _, c := range verdicts {
		var p parsed
		if got := parse([]byte(c.raw), &p, new(memo)); got != c.want {
			t.Errorf("parse(%q) = %d, want %d", c.raw, got, c.want)
		}
	}
}

func TestAPrefixIsNeverTakenForAWholeRequest(t *testing.T) {
	for _, c := range verdicts {
		for i := range c.raw {
			var p parsed
			switch got := parse([]byte(c.raw[:i]), &p, new(memo)); {
			case got == partial:
			case got == forGood && c.want == forGood:
			default:
				t.Errorf("parse(%q) = %d, and the whole is %d", c.raw[:i], got, c.want)
			}
		}
	}
}

func TestRememberedFieldsChangeNothing(t *testing.T) {
	for _, first := range verdicts {
		var p parsed
		m := new(memo)
		parse([]byte(first.raw), &p, m)
		for _, c := range verdicts {
			var fresh, again parsed
			want, m := parse([]byte(c.raw), &fresh, new(memo)), *m
			got := parse([]byte(c.raw), &again, &m)
			if got != want || want <= once && want != partial && (fresh.size != again.size || fresh.close != again.close || !bytes.Equal(fresh.host, again.host)) {
				t.Errorf("after %q, parse(%q) = %d %+v, want %d %+v", first.raw, c.raw, got, again, want, fresh)
			}
		}
	}
}

func TestTheEndOfAHeaderIsSeenAcrossReads(t *testing.T) {
	for _, end := range []string{"\r\n\r\n", "\n\n", "\n\r\n"} {
		b := []byte("GET / HTTP/1.1\r\nX: y" + end + "rest")
		for from := range bytes.Index(b, []byte(end)) + len(end) {
			if !ended(b, from) {
				t.Errorf("end %q is not seen from %d", end, from)
			}
		}
	}
	if b := []byte("GET / HTTP/1.1\r\nX: y\r\nZ: \r\n"); ended(b, 0) {
		t.Error("an end is seen where there is none")
	}
}

// FuzzRequestParser holds the fast parser to net/http's: what it takes for a request, net/http takes for the same one, and both
// see the next one begin at the same byte.
func FuzzRequestParser(f *testing.F) {
	for _, c := range verdicts {
		f.Add([]byte(c.raw), []byte(c.raw))
		f.Add([]byte(verdicts[0].raw), []byte(c.raw))
	}
	f.Fuzz(func(t *testing.T, first, b []byte) {
		var m memo
		var p parsed
		if v := parse(first, &p, &m); v == plain {
			check(t, v, &p, first)
		}
		v := parse(b, &p, &m)
		var fresh parsed
		if w := parse(b, &fresh, new(memo)); v != w {
			t.Fatalf("verdict %d with memory, %d without", v, w)
		}
		check(t, v, &p, b)
	})
}

func check(t *testing.T, v verdict, p *parsed, b []byte) {
	t.Helper()
	if v != plain && v != once {
		return
	}
	for i := range p.size {
		var q parsed
		if w := parse(b[:i], &q, new(memo)); w != partial {
			t.Fatalf("%d of %d bytes are judged %d", i, p.size, w)
		}
	}
	r := bufio.NewReaderSize(bytes.NewReader(b), len(b)+16)
	req, err := http.ReadRequest(r)
	if err != nil {
		if v == once {
			return // net/http will answer 400 and close
		}
		t.Fatalf("net/http refuses what is plain: %v", err)
	}
	method := map[bool]string{false: "GET", true: "HEAD"}[p.head]
	if req.Method != method || req.RequestURI != string(p.path) || req.Proto != "HTTP/1.1" {
		t.Fatalf("%s %s: net/http sees %s %s %s", method, p.path, req.Method, req.RequestURI, req.Proto)
	}
	if v == plain && (req.Host != string(p.host) || req.Close != p.close || req.URL.RawQuery != "" || req.URL.IsAbs()) {
		t.Fatalf("host %q close %v: net/http sees %q %v %v", p.host, p.close, req.Host, req.Close, req.URL)
	}
	if req.ContentLength != 0 || len(req.TransferEncoding) > 0 || req.Body != http.NoBody {
		t.Fatalf("net/http sees a body: %d %v", req.ContentLength, req.TransferEncoding)
	}
	for _, name := range []string{"Range", "Expect", "Upgrade", "Authorization", "If-None-Match", "If-Match", "If-Range", "If-Modified-Since", "If-Unmodified-Since"} {
		if v == plain && req.Header.Values(name) != nil {
			t.Fatalf("a plain request has %s", name)
		}
	}
	if conn := req.Header.Values("Connection"); strings.Contains(strings.ToLower(strings.Join(conn, ",")), "upgrade") {
		t.Fatalf("an upgrade was not seen: %q", conn)
	}
	rest, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(rest, b[p.size:]) {
		t.Fatalf("the header ends at %d, for net/http at %d (%v)", p.size, len(b)-len(rest), err)
	}
}

func BenchmarkParse(b *testing.B) {
	raw := []byte(get("/" + infoName(7)))
	b.Run("fields as before", func(b *testing.B) {
		var m memo
		for b.Loop() {
			var p parsed
			parse(raw, &p, &m)
		}
	})
	b.Run("other fields", func(b *testing.B) {
		for b.Loop() {
			var p parsed
			m := memo{}
			parse(raw, &p, &m)
		}
	})
	b.Run("net-http", func(b *testing.B) {
		for b.Loop() {
			if _, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw))); err != nil {
				b.Fatal(err)
			}
		}
	})
}
