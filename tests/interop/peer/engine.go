// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netns"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

const (
	// toShakeHands is how long the other end may take to answer.
	toShakeHands = 5 * time.Second
	// betweenLooks is the pause between two looks for that.
	betweenLooks = 5 * time.Millisecond
)

// openTunnel makes a device of wireguard-go in the namespace, whose packets go from ours.
func (w *wire) openTunnel(space netns.NsHandle) (err error) {
	if err := w.inside(space); err != nil {
		return err
	}
	keys := w.tunnel.keys
	endpoint := net.JoinHostPort(w.tunnel.remote.String(), strconv.Itoa(w.tunnel.port))
	settings := fmt.Sprintf("private_key=%s\nlisten_port=%d\nreplace_peers=true\npublic_key=%s\nendpoint=%s\n"+
		"persistent_keepalive_interval=10\nallowed_ip=0.0.0.0/0\nallowed_ip=::/0\n",
		hex.EncodeToString(keys.own.Bytes()), wireguardPort, hex.EncodeToString(keys.other), endpoint)
	if err := w.device.IpcSet(settings); err != nil {
		return err
	}
	return w.device.Up()
}

// inside makes the device on a thread that is in the namespace meanwhile.
func (w *wire) inside(space netns.NsHandle) error {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer func() { _ = home.Close() }()
	if err := netns.Set(space); err != nil {
		runtime.UnlockOSThread()
		return err
	}
	link, made := tun.CreateTUN(w.ends[0].name, w.mtu)
	if made == nil {
		w.device = device.NewDevice(newSteady(link), conn.NewStdNetBind(), device.NewLogger(device.LogLevelError, w.ends[0].mark+": "))
	}
	back := netns.Set(home)
	if back == nil {
		// Otherwise the thread ends with its goroutine, and nobody runs in the wrong place.
		runtime.UnlockOSThread()
	}
	return errors.Join(made, back)
}

// steady is a link whose tunnel is up when we say so: wireguard-go looks for it in the wrong namespace, and would end and
// begin its sessions once more when it finds it up after a second.
type steady struct {
	tun.Device
	events chan tun.Event
}

func newSteady(link tun.Device) *steady {
	s := &steady{link, make(chan tun.Event)}
	go func() {
		defer close(s.events)
		for range link.Events() {
		}
	}()
	return s
}

// Events tells nothing, but when there is nothing more to tell.
func (s *steady) Events() <-chan tun.Event {
	return s.events
}

// shakeHands waits until the other end has answered: whoever asks for a tunnel tells nobody of it before.
func (w *wire) shakeHands() error {
	for until := time.Now().Add(toShakeHands); time.Now().Before(until); time.Sleep(betweenLooks) {
		told, err := w.device.IpcGet()
		if err != nil {
			return err
		}
		if strings.Contains(told, "last_handshake_time_sec=") && !strings.Contains(told, "last_handshake_time_sec=0\n") {
			return nil
		}
	}
	return fmt.Errorf("the other end of the tunnel, %s, does not answer", w.tunnel.remote)
}
