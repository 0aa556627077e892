;;; Read s-expressions, one a line, each as the hexadecimal digits of its Latin-1 text.
;;; Print the advanced form that libgcrypt gives it, in the same coding, or "refused".
(use-modules (gcrypt pk-crypto) (gcrypt base16) (rnrs bytevectors) (rnrs io ports) (ice-9 rdelim))

(define latin-1 (make-transcoder (latin-1-codec) 'none))

(let loop ((line (read-line)))
  (unless (eof-object? line)
    (display
     (catch #t
       (lambda ()
         (bytevector->base16-string
          (string->bytevector
           (canonical-sexp->string
            (string->canonical-sexp (bytevector->string (base16-string->bytevector line) latin-1)))
           latin-1)))
       (lambda _ "refused")))
    (newline)
    (loop (read-line))))
