package httpfront_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"

	"narfold/internal/httpfront"
)

// prepared answers from memory.
type prepared map[string]httpfront.Answer

func (p prepared) Answer(r *httpfront.Request, a *httpfront.Answer) bool {
	found, ok := p[string(r.Path)]
	if ok {
		*a = found
	}
	return ok
}

func ExampleServer() {
	const info = "StoreDir: /gnu/store\nWantMassQuery: 1\n"
	header, err := httpfront.Head(200, int64(len(info)), httpfront.Field{Name: "Content-Type", Value: "text/x-nix-cache-info"})
	if err != nil {
		fmt.Println(err)
		return
	}
	s, err := httpfront.New(httpfront.Config{
		Plain: prepared{"/nix-cache-info": {Header: header, Body: []byte(info)}},
		HTTP:  &http.Server{Handler: http.NotFoundHandler()},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	done := make(chan error)
	go func() { done <- s.Serve(ctx, l) }()
	for _, path := range []string{"/nix-cache-info", "/else"} {
		resp, err := http.Get("http://" + l.Addr().String() + path)
		if err != nil {
			fmt.Println(err)
			return
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		fmt.Print(resp.Status, "\n", string(body))
		if err != nil {
			fmt.Println(err)
		}
	}
	stop()
	fmt.Println("stopped:", <-done)
	// Output:
	// 200 OK
	// StoreDir: /gnu/store
	// WantMassQuery: 1
	// 404 Not Found
	// 404 page not found
	// stopped: <nil>
}
