package qemu

import (
	"encoding/binary"
	"fmt"
)

// A guest that takes a device into use looks up where its interrupt pin is
// routed. QEMU's tables answer that for the root bus by a method that computes
// 128 entries each time, which takes a translated processor 100 ms. The table
// made here gives every bridge a routing of its own, written out, so that the
// root bus's is not asked. It says what the method says.

// ACPI Machine Language, as far as it is needed here.
// Source: ACPI specification 6.5, chapter 20.
const (
	amlZero     = 0x00
	amlName     = 0x08
	amlDWord    = 0x0c
	amlScope    = 0x10
	amlPackage  = 0x12
	amlDualName = 0x2e
	amlManyName = 0x2f
	amlRoot     = '\\'
)

// routingTable is the body of an SSDT that routes pin A of every device behind
// the bridges of a machine of so many segments. Virtio devices have no other.
func routingTable(segments int) []byte {
	var table []byte
	for s := 1; s < segments; s++ {
		bridge := bridgeSlot(segments, s)
		scope := amlPath("_SB_", "PCI0", fmt.Sprintf("S%02X_", bridge<<3))
		table = append(table, amlBlock(amlScope, append(scope, bridgeRouting(bridge)...))...)
	}
	return table
}

// bridgeRouting is the object _PRT of a bridge.
func bridgeRouting(bridge uint8) []byte {
	const pinA = 0
	entries := []byte{slotsPerBus}
	for slot := range uint8(slotsPerBus) {
		// A bridge turns the pins by a device's number, and so does the root bus.
		link := 'A' + (slot+bridge+slotsPerBus-1)%4
		entry := []byte{4, amlDWord}
		entry = binary.LittleEndian.AppendUint32(entry, uint32(slot)<<16|0xffff)
		entry = append(entry, pinA)
		entry = append(entry, amlPath("_SB_", "LNK"+string(rune(link)))...)
		entry = append(entry, amlZero)
		entries = append(entries, amlBlock(amlPackage, entry)...)
	}
	object := append([]byte{amlName}, "_PRT"...)
	return append(object, amlBlock(amlPackage, entries)...)
}

// amlPath is the name of an object from the root on, each part of four letters.
func amlPath(parts ...string) []byte {
	name := []byte{amlRoot}
	if len(parts) == 2 {
		name = append(name, amlDualName)
	} else {
		name = append(name, amlManyName, byte(len(parts)))
	}
	for _, p := range parts {
		name = append(name, p...)
	}
	return name
}

// amlBlock is an operator whose length, which counts itself, comes before its
// content.
func amlBlock(op byte, content []byte) []byte {
	n := len(content)
	block := []byte{op}
	switch {
	case n+1 < 1<<6:
		block = append(block, byte(n+1))
	case n+2 < 1<<12:
		n += 2
		block = append(block, 1<<6|byte(n&15), byte(n>>4))
	default: // up to 1 MiB, which no table here comes near
		n += 3
		block = append(block, 2<<6|byte(n&15), byte(n>>4), byte(n>>12))
	}
	return append(block, content...)
}
