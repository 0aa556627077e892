// Package coordinator decides what is built, where and in what order: evaluations, the queue, the allocation of builds to agents,
// retries and hooks; it checks what agents upload and signs it. It neither builds nor serves users. It is not built yet.
package coordinator
