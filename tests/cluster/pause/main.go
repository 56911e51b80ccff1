// SPDX-License-Identifier: Apache-2.0

// Command pause is the first process of every pod: its life is that of the pod's namespaces. It waits for whoever is
// handed to it, and ends when it is told to.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	told := make(chan os.Signal, 16)
	signal.Notify(told, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)
	for received := range told {
		if received != syscall.SIGCHLD {
			return
		}
		reap()
	}
}

// reap forgets every child that has ended: one signal may stand for many.
func reap() {
	for {
		child, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if err != syscall.EINTR && child <= 0 {
			return
		}
	}
}
