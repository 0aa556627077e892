package httpfront

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// BenchmarkLending compares, for bursts of 1000 requests of which some need net/http, a front whose connections come back with
// net/http alone. Its time is that of one request, client included.
func BenchmarkLending(b *testing.B) {
	st := newStore(b)
	body := strings.Repeat("x", 1200)
	st.text(b, "/known", body)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/x-nix-narinfo")
		io.WriteString(w, body)
	})
	_, addr, _ := start(b, Config{Plain: st, HTTP: &http.Server{Handler: handler}})
	alone := httptest.NewServer(handler)
	defer alone.Close()
	for _, every := range []int{0, 1000, 100, 10, 2, 1} {
		var burst strings.Builder
		for i := range 1000 {
			if every > 0 && i%every == 0 {
				burst.WriteString(get("/unknown"))
			} else {
				burst.WriteString(get("/known"))
			}
		}
		name := "none"
		if every > 0 {
			name = fmt.Sprintf("one in %d", every)
		}
		b.Run(name+"/front", func(b *testing.B) { bursts(b, addr, burst.String()) })
		b.Run(name+"/net-http", func(b *testing.B) { bursts(b, alone.Listener.Addr().String(), burst.String()) })
	}
}

func bursts(b *testing.B, addr, burst string) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	var size counting
	r := bufio.NewReader(io.TeeReader(c, &size))
	buf := make([]byte, 64<<10)
	sent := make(chan error, 1)
	ask := func() { _, err := io.WriteString(c, burst); sent <- err }
	go ask()
	for range 1000 {
		reply(b, r, "GET")
	}
	<-sent
	for n := 0; b.Loop(); n++ {
		if n%1000 > 0 {
			continue
		}
		go ask()
		for got := counting(0); got < size; {
			k, err := c.Read(buf)
			if err != nil {
				b.Fatal(err)
			}
			got += counting(k)
		}
		if err := <-sent; err != nil {
			b.Fatal(err)
		}
	}
}
