package nar_test

import (
	"bytes"
	"fmt"
	"io"

	"narfold/internal/nar"
)

func Example() {
	var b bytes.Buffer
	w := nar.NewWriter(&b)
	_ = w.Directory("")
	_ = w.Directory("bin")
	_ = w.File("bin/hello", 6, true)
	_, _ = io.WriteString(w, "hello\n")
	_ = w.Symlink("hi", "bin/hello")
	if err := w.Close(); err != nil {
		fmt.Println(err)
	}

	for r := nar.NewReader(&b); ; {
		h, err := r.Next()
		if err != nil {
			fmt.Println(err)
			break
		}
		fmt.Printf("%v /%s %q\n", h.Type, h.Path, h.Target)
	}
	// Output:
	// directory / ""
	// directory /bin ""
	// regular /bin/hello ""
	// symlink /hi "bin/hello"
	// EOF
}

func ExampleOpen() {
	var b bytes.Buffer
	w := nar.NewWriter(&b)
	_ = w.Directory("")
	_ = w.File("greeting", 6, false)
	_, _ = io.WriteString(w, "hello\n")
	_ = w.Close()

	h, contents, err := nar.Open(&b, "greeting")
	if err != nil {
		fmt.Println(err)
		return
	}
	text, _ := io.ReadAll(contents)
	fmt.Printf("%d bytes from byte %d: %s", h.Size, h.Offset, text)
	// Output: 6 bytes from byte 232: hello
}
