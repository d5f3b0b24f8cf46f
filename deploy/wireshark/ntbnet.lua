-- Wireshark dissector for what `ntbnet trace export -o FILE.pcapng` writes.
--
--   tshark -X lua_script:ntbnet.lua -r FILE.pcapng
--
-- or put it into the folder of personal Lua plugins (Help, About Wireshark, Folders). For Wireshark 4.0 and later.
-- The format is in docs/trace.md. What stands between the two marks is made from the project's own tables by
-- `python -m tests.dissector_tables`, and a test compares it.

-- BEGIN TABLES
local LAYOUT = {
  version = {0, 1},
  header_bytes = {1, 1},
  kind = {2, 1},
  flags = {3, 1},
  service = {4, 1},
  other = {5, 1},
  result = {6, 1},
  bar = {7, 1},
  epoch = {8, 4},
  length = {12, 4},
  flow = {16, 8},
  address = {24, 8},
  translated = {32, 8},
  bar_offset = {40, 8},
  queue = {48, 2},
  slot = {50, 2},
  tag = {52, 4},
  amount = {56, 4},
  offset = {60, 4},
  region = {64, 1},
  block = {65, 1},
  level = {66, 1},
  reserved = {67, 1},
  pid = {68, 4},
  incarnation = {72, 4},
  mono_ns = {76, 8},
  number = {84, 8},
}
local SERVICES = {
  [1] = "rc-host",
  [2] = "epc",
  [3] = "edma",
  [4] = "peer-rc",
  [5] = "peer-ep",
}
local KINDS = {
  [1] = "start",
  [2] = "stop",
  [3] = "level",
  [4] = "path",
  [5] = "event",
  [6] = "beat",
  [8] = "slice",
  [16] = "tun read",
  [17] = "ring write",
  [18] = "trigger",
  [19] = "tun write",
  [20] = "ring fill",
  [32] = "mem write",
  [33] = "mem read",
  [34] = "completion",
  [35] = "cfg read",
  [36] = "cfg write",
  [40] = "msi",
  [41] = "line",
  [42] = "irq",
  [48] = "reg read",
  [49] = "reg write",
  [56] = "other",
}
local RESULTS = {
  [0] = "successful",
  [1] = "unsupported request",
  [4] = "completer abort",
  [253] = "handled with others",
  [254] = "dropped",
  [255] = "timeout",
}
local HANDLERS = {
  [1] = "message",
  [2] = "wake",
  [3] = "timer",
  [4] = "tun",
  [5] = "poll",
  [6] = "again",
}
local IRQ_SOURCES = {
  [1] = "msi vector",
  [2] = "doorbell slots",
  [3] = "edma line",
  [4] = "peer doorbell",
}
local LEVELS = {
  [1] = "coarse",
  [2] = "full",
}
local REGIONS = {
  [1] = "ctrl",
  [2] = "spads",
  [3] = "doorbells",
  [4] = "msix",
  [5] = "msi_page",
  [6] = "edma",
  [7] = "config",
  [9] = "mw1",
  [10] = "mw2",
  [11] = "mw3",
  [12] = "mw4",
}
local BLOCKS = {
  [1] = "edma",
  [2] = "ntb_rfc1",
  [3] = "ntb_classic",
  [4] = "config",
  [5] = "msix_table",
}
local KIND = {
  START = 1,
  STOP = 2,
  LEVEL = 3,
  PATH = 4,
  EVENT = 5,
  BEAT = 6,
  SLICE = 8,
  TUN_READ = 16,
  RING_WRITE = 17,
  TRIGGER = 18,
  TUN_WRITE = 19,
  RING_FILL = 20,
  MEM_WRITE = 32,
  MEM_READ = 33,
  COMPLETION = 34,
  CFG_READ = 35,
  CFG_WRITE = 36,
  MSI = 40,
  LINE = 41,
  IRQ = 42,
  REG_READ = 48,
  REG_WRITE = 49,
  OTHER = 56,
}
local REGION = {
  NONE = 0,
  CTRL = 1,
  SPADS = 2,
  DOORBELLS = 3,
  MSIX = 4,
  MSI_PAGE = 5,
  EDMA = 6,
  CONFIG = 7,
  MW1 = 9,
  MW2 = 10,
  MW3 = 11,
  MW4 = 12,
}
local FLAG = {
  SENT = 0x01,
  DIRECT = 0x02,
  TRANSLATED = 0x04,
  OUTBOUND = 0x08,
  WAKE = 0x10,
  UP = 0x20,
}
local VERSION, NO_BAR, NO_SLOT = 1, 255, 65535
local REGISTERS = {
  [1] = { -- Linux dw-edma-v0-regs.h, unroll map
    {0x000, 4, 1, 0x4, "CTRL_DATA_ARB_PRIOR"},
    {0x008, 4, 1, 0x4, "CTRL", {"WR_CHANNELS", 0, 4}, {"RD_CHANNELS", 16, 4}},
    {0x00c, 4, 1, 0x4, "WR_ENGINE_EN", {"ENABLE", 0, 1}},
    {0x010, 4, 1, 0x4, "WR_DOORBELL", {"CHANNEL", 0, 3}, {"STOP", 31, 1}},
    {0x018, 4, 1, 0x4, "WR_CH_ARB_WEIGHT_LOW"},
    {0x01c, 4, 1, 0x4, "WR_CH_ARB_WEIGHT_HIGH"},
    {0x02c, 4, 1, 0x4, "RD_ENGINE_EN", {"ENABLE", 0, 1}},
    {0x030, 4, 1, 0x4, "RD_DOORBELL", {"CHANNEL", 0, 3}, {"STOP", 31, 1}},
    {0x038, 4, 1, 0x4, "RD_CH_ARB_WEIGHT_LOW"},
    {0x03c, 4, 1, 0x4, "RD_CH_ARB_WEIGHT_HIGH"},
    {0x04c, 4, 1, 0x4, "WR_INT_STATUS", {"DONE", 0, 8}, {"ABORT", 16, 8}},
    {0x054, 4, 1, 0x4, "WR_INT_MASK", {"DONE", 0, 8}, {"ABORT", 16, 8}},
    {0x058, 4, 1, 0x4, "WR_INT_CLEAR", {"DONE", 0, 8}, {"ABORT", 16, 8}},
    {0x05c, 4, 1, 0x4, "WR_ERR_STATUS", {"LOCAL_READ", 0, 8}, {"LIST_FETCH", 16, 8}},
    {0x060, 4, 1, 0x4, "WR_DONE_IMWR_LOW"},
    {0x064, 4, 1, 0x4, "WR_DONE_IMWR_HIGH"},
    {0x068, 4, 1, 0x4, "WR_ABORT_IMWR_LOW"},
    {0x06c, 4, 1, 0x4, "WR_ABORT_IMWR_HIGH"},
    {0x070, 4, 1, 0x4, "WR_CH01_IMWR_DATA", {"EVEN", 0, 16}, {"ODD", 16, 16}},
    {0x074, 4, 1, 0x4, "WR_CH23_IMWR_DATA", {"EVEN", 0, 16}, {"ODD", 16, 16}},
    {0x078, 4, 1, 0x4, "WR_CH45_IMWR_DATA", {"EVEN", 0, 16}, {"ODD", 16, 16}},
    {0x07c, 4, 1, 0x4, "WR_CH67_IMWR_DATA", {"EVEN", 0, 16}, {"ODD", 16, 16}},
    {0x090, 4, 1, 0x4, "WR_LINKED_LIST_ERR_EN", {"CHANNELS", 0, 8}},
    {0x0a0, 4, 1, 0x4, "RD_INT_STATUS", {"DONE", 0, 8}, {"ABORT", 16, 8}},
    {0x0a8, 4, 1, 0x4, "RD_INT_MASK", {"DONE", 0, 8}, {"ABORT", 16, 8}},
    {0x0ac, 4, 1, 0x4, "RD_INT_CLEAR", {"DONE", 0, 8}, {"ABORT", 16, 8}},
    {0x0b4, 4, 1, 0x4, "RD_ERR_STATUS_LOW", {"LOCAL_WRITE", 0, 8}, {"LIST_FETCH", 16, 8}},
    {0x0b8, 4, 1, 0x4, "RD_ERR_STATUS_HIGH", {"UNSUPPORTED", 0, 8}, {"COMPLETER_ABORT", 8, 8}, {"TIMEOUT", 16, 8}, {"POISONED", 24, 8}},
    {0x0c4, 4, 1, 0x4, "RD_LINKED_LIST_ERR_EN", {"CHANNELS", 0, 8}},
    {0x0cc, 4, 1, 0x4, "RD_DONE_IMWR_LOW"},
    {0x0d0, 4, 1, 0x4, "RD_DONE_IMWR_HIGH"},
    {0x0d4, 4, 1, 0x4, "RD_ABORT_IMWR_LOW"},
    {0x0d8, 4, 1, 0x4, "RD_ABORT_IMWR_HIGH"},
    {0x0dc, 4, 1, 0x4, "RD_CH01_IMWR_DATA", {"EVEN", 0, 16}, {"ODD", 16, 16}},
    {0x0e0, 4, 1, 0x4, "RD_CH23_IMWR_DATA", {"EVEN", 0, 16}, {"ODD", 16, 16}},
    {0x0e4, 4, 1, 0x4, "RD_CH45_IMWR_DATA", {"EVEN", 0, 16}, {"ODD", 16, 16}},
    {0x0e8, 4, 1, 0x4, "RD_CH67_IMWR_DATA", {"EVEN", 0, 16}, {"ODD", 16, 16}},
    {0x100, 4, 1, 0x4, "WR_ENGINE_CHGROUP"},
    {0x104, 4, 1, 0x4, "RD_ENGINE_CHGROUP"},
    {0x108, 8, 1, 0x8, "WR_ENGINE_HSHAKE_CNT"},
    {0x118, 8, 1, 0x8, "RD_ENGINE_HSHAKE_CNT"},
    {0x128, 4, 8, 0x4, "WR_CH_PWR_EN", {"ENABLE", 0, 1}},
    {0x168, 4, 8, 0x4, "RD_CH_PWR_EN", {"ENABLE", 0, 1}},
    {0x200, 4, 8, 0x200, "WR_CONTROL1", {"CB", 0, 1}, {"TCB", 1, 1}, {"LLP", 2, 1}, {"LIE", 3, 1}, {"RIE", 4, 1}, {"STATUS", 5, 2}, {"CCS", 8, 1}, {"LLE", 9, 1}},
    {0x204, 4, 8, 0x200, "WR_CONTROL2"},
    {0x208, 4, 8, 0x200, "WR_TRANSFER_SIZE"},
    {0x20c, 4, 8, 0x200, "WR_SAR_LOW"},
    {0x210, 4, 8, 0x200, "WR_SAR_HIGH"},
    {0x214, 4, 8, 0x200, "WR_DAR_LOW"},
    {0x218, 4, 8, 0x200, "WR_DAR_HIGH"},
    {0x21c, 4, 8, 0x200, "WR_LLP_LOW"},
    {0x220, 4, 8, 0x200, "WR_LLP_HIGH"},
    {0x300, 4, 8, 0x200, "RD_CONTROL1", {"CB", 0, 1}, {"TCB", 1, 1}, {"LLP", 2, 1}, {"LIE", 3, 1}, {"RIE", 4, 1}, {"STATUS", 5, 2}, {"CCS", 8, 1}, {"LLE", 9, 1}},
    {0x304, 4, 8, 0x200, "RD_CONTROL2"},
    {0x308, 4, 8, 0x200, "RD_TRANSFER_SIZE"},
    {0x30c, 4, 8, 0x200, "RD_SAR_LOW"},
    {0x310, 4, 8, 0x200, "RD_SAR_HIGH"},
    {0x314, 4, 8, 0x200, "RD_DAR_LOW"},
    {0x318, 4, 8, 0x200, "RD_DAR_HIGH"},
    {0x31c, 4, 8, 0x200, "RD_LLP_LOW"},
    {0x320, 4, 8, 0x200, "RD_LLP_HIGH"},
  },
  [2] = { -- RFC of 2025-10-23, NTB/PCI: Add DW eDMA intr fallback and BAR MW offsets, pci-epf-vntb.c
    {0x000, 4, 1, 0x4, "command"},
    {0x004, 4, 1, 0x4, "argument"},
    {0x008, 2, 1, 0x2, "command_status"},
    {0x00a, 2, 1, 0x2, "link_status"},
    {0x00c, 4, 1, 0x4, "topology"},
    {0x010, 8, 1, 0x8, "addr"},
    {0x018, 8, 1, 0x8, "size"},
    {0x020, 4, 1, 0x4, "num_mws"},
    {0x024, 4, 4, 0x4, "mw_offset"},
    {0x034, 4, 4, 0x4, "mw_size"},
    {0x044, 4, 1, 0x4, "spad_offset"},
    {0x048, 4, 1, 0x4, "spad_count"},
    {0x04c, 4, 1, 0x4, "db_entry_size"},
    {0x050, 4, 32, 0x4, "db_data"},
    {0x0d0, 4, 32, 0x4, "db_offset"},
  },
  [3] = { -- Linux 6.1 pci-epf-vntb.c, struct epf_ntb_ctrl; ntb_hw_epf.c reads offset 0x24 as MW1 offset
    {0x000, 4, 1, 0x4, "command"},
    {0x004, 4, 1, 0x4, "argument"},
    {0x008, 2, 1, 0x2, "command_status"},
    {0x00a, 2, 1, 0x2, "link_status"},
    {0x00c, 4, 1, 0x4, "topology"},
    {0x010, 8, 1, 0x8, "addr"},
    {0x018, 8, 1, 0x8, "size"},
    {0x020, 4, 1, 0x4, "num_mws"},
    {0x024, 4, 1, 0x4, "mw1_offset"},
    {0x028, 4, 1, 0x4, "spad_offset"},
    {0x02c, 4, 1, 0x4, "spad_count"},
    {0x030, 4, 1, 0x4, "db_entry_size"},
    {0x034, 4, 32, 0x4, "db_data"},
    {0x0b4, 4, 32, 0x4, "db_offset"},
  },
  [4] = { -- PCI Local Bus Specification 3.0, 6.1 and 6.8; Linux pci_regs.h
    {0x000, 2, 1, 0x2, "VENDOR_ID"},
    {0x002, 2, 1, 0x2, "DEVICE_ID"},
    {0x004, 2, 1, 0x2, "COMMAND", {"MEMORY", 1, 1}, {"BUS_MASTER", 2, 1}, {"PARITY", 6, 1}, {"SERR", 8, 1}, {"INTX_DISABLE", 10, 1}},
    {0x006, 2, 1, 0x2, "STATUS", {"CAPABILITIES", 4, 1}, {"MASTER_PARITY_ERROR", 8, 1}, {"SIGNALED_TARGET_ABORT", 11, 1}, {"RECEIVED_TARGET_ABORT", 12, 1}, {"RECEIVED_MASTER_ABORT", 13, 1}, {"SIGNALED_SYSTEM_ERROR", 14, 1}, {"DETECTED_PARITY_ERROR", 15, 1}},
    {0x008, 1, 1, 0x1, "REVISION_ID"},
    {0x009, 1, 1, 0x1, "PROG_IF"},
    {0x00a, 1, 1, 0x1, "SUBCLASS"},
    {0x00b, 1, 1, 0x1, "BASE_CLASS"},
    {0x00c, 1, 1, 0x1, "CACHE_LINE_SIZE"},
    {0x00d, 1, 1, 0x1, "LATENCY_TIMER"},
    {0x00e, 1, 1, 0x1, "HEADER_TYPE"},
    {0x00f, 1, 1, 0x1, "BIST"},
    {0x010, 4, 6, 0x4, "BAR"},
    {0x028, 4, 1, 0x4, "CARDBUS_CIS"},
    {0x02c, 2, 1, 0x2, "SUBSYSTEM_VENDOR_ID"},
    {0x02e, 2, 1, 0x2, "SUBSYSTEM_ID"},
    {0x030, 4, 1, 0x4, "ROM_ADDRESS"},
    {0x034, 1, 1, 0x1, "CAPABILITY_POINTER"},
    {0x03c, 1, 1, 0x1, "INTERRUPT_LINE"},
    {0x03d, 1, 1, 0x1, "INTERRUPT_PIN"},
    {0x03e, 1, 1, 0x1, "MIN_GRANT"},
    {0x03f, 1, 1, 0x1, "MAX_LATENCY"},
    {0x050, 1, 1, 0x1, "MSI_CAP_ID"},
    {0x051, 1, 1, 0x1, "MSI_NEXT"},
    {0x052, 2, 1, 0x2, "MSI_CONTROL", {"ENABLE", 0, 1}, {"MULTIPLE_CAPABLE", 1, 3}, {"MULTIPLE_ENABLE", 4, 3}, {"ADDRESS_64", 7, 1}},
    {0x054, 4, 1, 0x4, "MSI_ADDRESS_LOW", {"ADDR", 2, 30}},
    {0x058, 4, 1, 0x4, "MSI_ADDRESS_HIGH"},
    {0x05c, 2, 1, 0x2, "MSI_DATA"},
    {0x0b0, 1, 1, 0x1, "MSIX_CAP_ID"},
    {0x0b1, 1, 1, 0x1, "MSIX_NEXT"},
    {0x0b2, 2, 1, 0x2, "MSIX_CONTROL", {"TABLE_SIZE", 0, 11}, {"FUNCTION_MASK", 14, 1}, {"ENABLE", 15, 1}},
    {0x0b4, 4, 1, 0x4, "MSIX_TABLE", {"BIR", 0, 3}, {"OFFSET", 3, 29}},
    {0x0b8, 4, 1, 0x4, "MSIX_PBA", {"BIR", 0, 3}, {"OFFSET", 3, 29}},
    {0x100, 4, 1, 0x4, "REBAR_HEADER"},
    {0x104, 4, 1, 0x4, "REBAR0_CAP", {"SIZES", 4, 28}},
    {0x108, 4, 1, 0x4, "REBAR0_CONTROL", {"BAR_INDEX", 0, 3}, {"BAR_COUNT", 5, 3}, {"BAR_SIZE", 8, 6}},
    {0x10c, 4, 1, 0x4, "REBAR1_CAP", {"SIZES", 4, 28}},
    {0x110, 4, 1, 0x4, "REBAR1_CONTROL", {"BAR_INDEX", 0, 3}, {"BAR_COUNT", 5, 3}, {"BAR_SIZE", 8, 6}},
    {0x114, 4, 1, 0x4, "REBAR2_CAP", {"SIZES", 4, 28}},
    {0x118, 4, 1, 0x4, "REBAR2_CONTROL", {"BAR_INDEX", 0, 3}, {"BAR_COUNT", 5, 3}, {"BAR_SIZE", 8, 6}},
    {0x11c, 4, 1, 0x4, "REBAR3_CAP", {"SIZES", 4, 28}},
    {0x120, 4, 1, 0x4, "REBAR3_CONTROL", {"BAR_INDEX", 0, 3}, {"BAR_COUNT", 5, 3}, {"BAR_SIZE", 8, 6}},
    {0x124, 4, 1, 0x4, "REBAR4_CAP", {"SIZES", 4, 28}},
    {0x128, 4, 1, 0x4, "REBAR4_CONTROL", {"BAR_INDEX", 0, 3}, {"BAR_COUNT", 5, 3}, {"BAR_SIZE", 8, 6}},
    {0x12c, 4, 1, 0x4, "REBAR5_CAP", {"SIZES", 4, 28}},
    {0x130, 4, 1, 0x4, "REBAR5_CONTROL", {"BAR_INDEX", 0, 3}, {"BAR_COUNT", 5, 3}, {"BAR_SIZE", 8, 6}},
  },
  [5] = { -- PCI Local Bus Specification 3.0, 6.8.2
    {0x000, 4, 2048, 0x10, "ADDRESS_LOW", {"ADDR", 2, 30}},
    {0x004, 4, 2048, 0x10, "ADDRESS_HIGH"},
    {0x008, 4, 2048, 0x10, "DATA"},
    {0x00c, 4, 2048, 0x10, "VECTOR_CONTROL", {"MASK", 0, 1}},
  },
}
-- END TABLES

local ntbnet = Proto("ntbnet", "NTB bridge trace")
local on_ip = Proto("ntbnet_ip", "NTB bridge trace, this packet on its way")

local function u64(name, label, help)
  return ProtoField.uint64("ntbnet." .. name, label, base.HEX, nil, nil, help)
end
local function number(kind, name, label, names, help)
  return ProtoField[kind]("ntbnet." .. name, label, base.DEC, names, nil, help)
end
local function link(name, label, sort)
  return ProtoField.framenum("ntbnet." .. name, label, base.NONE, sort)
end

local F = {
  version = number("uint8", "version", "Version"),
  kind = number("uint8", "kind", "Kind", KINDS, "What happened"),
  service = number("uint8", "service", "Written by", SERVICES, "Service that wrote the record"),
  other = number("uint8", "other", "Other service", SERVICES),
  src = ProtoField.string("ntbnet.src", "From", base.ASCII, "Service it comes from"),
  dst = ProtoField.string("ntbnet.dst", "To", base.ASCII, "Service it goes to"),
  flags = ProtoField.uint8("ntbnet.flags", "Flags", base.HEX),
  sent = ProtoField.bool("ntbnet.sent", "Sent by this service", 8, nil, FLAG.SENT),
  direct = ProtoField.bool("ntbnet.direct", "Stored in place", 8, nil, FLAG.DIRECT),
  is_translated = ProtoField.bool("ntbnet.is_translated", "Translated", 8, nil, FLAG.TRANSLATED),
  outbound = ProtoField.bool("ntbnet.outbound", "Outbound, endpoint to host", 8, nil, FLAG.OUTBOUND),
  wake = ProtoField.bool("ntbnet.wake", "By a wake, past the paths", 8, nil, FLAG.WAKE),
  up = ProtoField.bool("ntbnet.up", "Came up", 8, nil, FLAG.UP),
  result = number("uint8", "result", "Result", RESULTS),
  epoch = number("uint32", "epoch", "Link epoch"),
  len = number("uint32", "len", "Length", nil, "Bytes accessed, or of the frame"),
  flow = u64("flow", "Flow", "Equal in all records of one frame, message or wake"),
  addr = u64("addr", "Address", "As the requester gave it"),
  translated = u64("translated", "Translated address"),
  bar = number("uint8", "bar", "BAR"),
  bar_offset = u64("bar_offset", "Offset in the BAR"),
  region = number("uint8", "region", "Region", REGIONS, "What lies at the address"),
  offset = ProtoField.uint32("ntbnet.offset", "Offset in the region", base.HEX),
  block = number("uint8", "block", "Register block", BLOCKS),
  reg = ProtoField.string("ntbnet.reg", "Register"),
  value = u64("value", "Value", "Data of 8 bytes or fewer, little-endian"),
  data = ProtoField.bytes("ntbnet.data", "Data"),
  text = ProtoField.string("ntbnet.text", "Text"),
  queue = number("uint16", "queue", "Queue"),
  window = number("uint16", "window", "Translation window"),
  vector = number("uint16", "vector", "Interrupt vector"),
  frame = number("uint16", "frame", "Frame of the ring"),
  handler = number("uint16", "handler", "Handler", HANDLERS),
  irq_source = number("uint16", "irq_source", "Interrupt source", IRQ_SOURCES),
  bits = u64("bits", "Interrupt bits"),
  fill = number("uint32", "fill", "Frames in the ring"),
  duration = number("uint32", "duration_ns", "Duration, ns"),
  tag = number("uint32", "tag", "Tag"),
  pid = number("uint32", "pid", "Process"),
  incarnation = number("uint32", "incarnation", "Incarnation"),
  level = number("uint8", "level", "Level of the ring", LEVELS),
  mono_ns = ProtoField.uint64("ntbnet.mono_ns", "Monotonic time, ns", base.DEC),
  number = ProtoField.uint64("ntbnet.number", "Record number", base.DEC),
  missing = ProtoField.uint64("ntbnet.missing", "Records missing before", base.DEC),
  response_in = link("response_in", "Completion in", frametype.RESPONSE),
  response_to = link("response_to", "Request in", frametype.REQUEST),
  response_ns = ProtoField.uint64("ntbnet.response_ns", "Time since the request, ns", base.DEC),
  previous = link("flow_previous", "Before it in this flow"),
  next = link("flow_next", "Next in this flow"),
  tun_read = link("tun_read", "Read from the stack in"),
  tun_write = link("tun_write", "Given to the stack in"),
  flight_ns = ProtoField.uint64("ntbnet.flight_ns", "Time from stack to stack, ns", base.DEC),
  cause = link("cause", "Caused by"),
  effect = link("effect", "Caused"),
}

ntbnet.fields = {}
for _, field in pairs(F) do
  table.insert(ntbnet.fields, field)
end

local refused = ProtoExpert.new("ntbnet.refused", "Not successful", expert.group.RESPONSE_CODE, expert.severity.WARN)
local gap = ProtoExpert.new("ntbnet.gap", "Records are missing", expert.group.SEQUENCE, expert.severity.NOTE)
local foreign = ProtoExpert.new("ntbnet.foreign", "Not this version", expert.group.PROTOCOL, expert.severity.ERROR)
ntbnet.experts = { refused, gap, foreign }

-- What earlier packets told. Filled in the first pass only; later ones read what was found by packet number.
local found, last_of_flow, flights, open_requests, last_number, told, rung, passed_on

function ntbnet.init()
  found, last_of_flow, flights, open_requests, last_number = {}, {}, {}, {}, {}
  told, rung, passed_on = {}, {}, {}
end

local function notes(number)
  local mine = found[number]
  if not mine then
    mine = {}
    found[number] = mine
  end
  return mine
end

local function join_flow(number, flow)
  local before = last_of_flow[flow]
  if before then
    notes(before).next = number
    notes(number).previous = before
  end
  last_of_flow[flow] = number
end

-- Where a frame began and ended.
local function join_flight(number, r, flow)
  local flight = flights[flow] or {}
  if r.kind == KIND.TUN_READ then
    flight = { read = number, at = r.mono_ns }
  elseif not flight.write then
    flight.write = number
    flight.ns = flight.at and r.mono_ns - flight.at
  end
  flights[flow] = flight
end

local function has(flags, flag)
  return math.floor(flags / flag) % 2 == 1
end

local function seconds(ns)
  if ns < 1000 then return string.format("%d ns", ns) end
  if ns < 1000000 then return string.format("%.1f us", ns / 1000) end
  return string.format("%.3f ms", ns / 1000000)
end

local function hex(value)
  return "0x" .. (string.gsub(value:tohex(), "^0+(%x)", "%1"))
end

-- Name of the register at an offset of a block, and its row in REGISTERS.
local function register_at(block, offset)
  for _, row in ipairs(REGISTERS[block] or {}) do
    local start, width, count, stride, name = row[1], row[2], row[3], row[4], row[5]
    local index = math.floor((offset - start) / stride)
    if index >= 0 and index < count and (offset - start) % stride < width then
      return count > 1 and string.format("%s[%d]", name, index) or name, row
    end
  end
end

local TEXTS = { [KIND.START] = true, [KIND.PATH] = true, [KIND.EVENT] = true, [KIND.OTHER] = true }
local FRAMES = { [KIND.TUN_READ] = true, [KIND.TUN_WRITE] = true, [KIND.RING_WRITE] = true, [KIND.TRIGGER] = true,
  [KIND.RING_FILL] = true }
local INTERRUPTS = { [KIND.LINE] = true, [KIND.IRQ] = true }
local ACCESSES = { [KIND.MEM_WRITE] = true, [KIND.MEM_READ] = true, [KIND.CFG_READ] = true, [KIND.CFG_WRITE] = true,
  [KIND.REG_READ] = true, [KIND.REG_WRITE] = true, [KIND.MSI] = true }
local ASKS = { [KIND.MEM_READ] = true, [KIND.CFG_READ] = true, [KIND.CFG_WRITE] = true }
local ACCESS_NAMES = { [KIND.MEM_WRITE] = "Memory write", [KIND.MEM_READ] = "Memory read",
  [KIND.CFG_READ] = "Config read", [KIND.CFG_WRITE] = "Config write", [KIND.REG_READ] = "Register read",
  [KIND.REG_WRITE] = "Register write" }

-- Request and completion: both have the tag, and go between the same two services.
local function join_request(number, r)
  local requester, completer = r.src, r.dst
  if r.kind == KIND.COMPLETION then requester, completer = r.dst, r.src end
  local key = requester .. ":" .. completer .. ":" .. r.tag
  if ASKS[r.kind] then
    if r.sent or not open_requests[key] then
      open_requests[key] = { number = number, at = r.mono_ns }
    end
  elseif open_requests[key] and open_requests[key].number then
    local request = open_requests[key]
    if not notes(request.number).response_in then notes(request.number).response_in = number end
    notes(number).response_to = request.number
    notes(number).response_ns = r.mono_ns - request.at
    if not r.sent then open_requests[key] = nil end
  end
end

-- What a service did because of what it did just before: no id joins these, only the order in one process.
local function join_cause(number, r)
  local is_ring = r.region == REGION.DOORBELLS or (r.reg or ""):find("_INT_STATUS", 1, true) ~= nil
  local last = passed_on[r.service]
  local cause
  if r.kind == KIND.MEM_WRITE and r.sent and last and last.to == tostring(r.address) then
    cause, passed_on[r.service] = last.number, nil
  elseif r.kind == KIND.MEM_WRITE and not r.sent and r.translated_to then
    passed_on[r.service] = { number = number, to = tostring(r.translated_to) }
  elseif r.kind == KIND.TRIGGER and r.result == 0 then
    rung[r.service] = number
  elseif r.sent and (r.kind == KIND.LINE or r.kind == KIND.MSI) and told[r.service] then
    cause, told[r.service] = told[r.service], nil
  elseif r.sent and (r.kind == KIND.MSI or r.kind == KIND.IRQ or (r.kind == KIND.MEM_WRITE and is_ring)) then
    cause, rung[r.service] = rung[r.service], nil
  elseif (r.kind == KIND.REG_WRITE and is_ring) or (r.kind == KIND.IRQ and not r.sent) then
    told[r.service] = number
  end
  if r.kind == KIND.MSI and r.sent then
    passed_on[r.service] = { number = number, to = tostring(r.address) }
  end
  if cause then
    notes(number).cause = cause
    notes(cause).effect = number
  end
end

local function place_text(r)
  if r.bar ~= NO_BAR then return string.format("BAR%d+%s", r.bar, hex(r.bar_offset)) end
  if r.kind == KIND.CFG_READ or r.kind == KIND.CFG_WRITE or r.kind == KIND.REG_READ or r.kind == KIND.REG_WRITE then
    return string.format("%s+0x%x", BLOCKS[r.block] or "offset", r.offset)
  end
  return hex(r.address)
end

local function access_text(r)
  local text = string.format("%s %d B %s", ACCESS_NAMES[r.kind], r.len, place_text(r))
  if r.translated_to then
    local window = r.slot ~= NO_SLOT and string.format(" (window %d)", r.slot) or ""
    text = text .. string.format(" -> %s%s", hex(r.translated_to), window)
  end
  if r.reg then text = text .. " " .. r.reg
  elseif r.region ~= 0 then text = text .. string.format(" %s+0x%x", REGIONS[r.region] or "?", r.offset) end
  if r.value then text = text .. " = " .. hex(r.value) end
  if ASKS[r.kind] then text = text .. string.format(", tag %d", r.tag) end
  return text
end

local function info_text(r)
  local k = r.kind
  if ACCESS_NAMES[k] then return access_text(r) end
  if TEXTS[k] then return string.format("%s: %s", KINDS[k], r.text or "") end
  if k == KIND.MSI then
    return string.format("MSI vector %d to %s%s", r.slot, hex(r.address), r.value and " = " .. hex(r.value) or "")
  elseif k == KIND.COMPLETION then
    return string.format("Completion of tag %d, %d B%s", r.tag, r.len, r.value and " = " .. hex(r.value) or "")
  elseif k == KIND.LINE then
    return string.format("eDMA interrupt lines %s high", hex(r.address))
  elseif k == KIND.IRQ then
    return string.format("Interrupt, %s %s", IRQ_SOURCES[r.slot] or "?", hex(r.address))
  elseif k == KIND.LEVEL then
    return string.format("Trace level: %s", LEVELS[r.slot] or "off")
  elseif k == KIND.SLICE then
    return string.format("Handler (%s) took %s", HANDLERS[r.slot] or "?", seconds(r.amount))
  elseif k == KIND.RING_WRITE then
    return string.format("Frame of %d B in the ring of queue %d, slot %d, %d in it", r.len, r.queue, r.slot, r.amount)
  elseif k == KIND.TRIGGER then
    return string.format("Queue %d: the peer %s", r.queue, r.result == 0 and "is told" or "looks by itself")
  elseif k == KIND.RING_FILL then
    return string.format("Ring of queue %d holds %d of %d frames", r.queue, r.amount, r.len)
  elseif k == KIND.TUN_READ then
    return string.format("Packet of %d B from the stack, queue %d", r.len, r.queue)
  elseif k == KIND.TUN_WRITE then
    return string.format("Packet of %d B to the stack, queue %d", r.len, r.queue)
  elseif k == KIND.BEAT then
    return string.format("Alive: %s messages received, %s sent; packets sent %d, received %d",
      tostring(r.address), tostring(r.translated), r.len, r.amount)
  end
  return KINDS[k] or string.format("kind %d", k)
end

local function add_links(tree, number)
  local mine = found[number]
  if not mine then return end
  for _, name in ipairs({ "response_to", "response_ns", "response_in", "previous", "next", "cause", "effect" }) do
    if mine[name] then tree:add(F[name], mine[name]):set_generated() end
  end
end

local function add_flight(tree, flow)
  local flight = flights[flow]
  if not flight then return end
  if flight.read then tree:add(F.tun_read, flight.read):set_generated() end
  if flight.write then tree:add(F.tun_write, flight.write):set_generated() end
  if flight.ns then tree:add(F.flight_ns, flight.ns):set_generated() end
end

function ntbnet.dissector(buffer, pinfo, root)
  local function at(name)
    local where = LAYOUT[name]
    return buffer(where[1], where[2])
  end
  local smallest = LAYOUT.number[1] + LAYOUT.number[2]
  pinfo.cols.protocol = "NTB"
  if buffer:len() < smallest or buffer(0, 1):uint() ~= VERSION or buffer(1, 1):uint() < smallest
    or buffer(1, 1):uint() > buffer:len() then
    pinfo.cols.info = "No record of an NTB bridge's trace that this dissector knows"
    root:add(ntbnet, buffer()):add_proto_expert_info(foreign)
    return
  end

  local r = {
    kind = at("kind"):uint(), flags = at("flags"):uint(), service = at("service"):uint(), other = at("other"):uint(),
    result = at("result"):uint(), bar = at("bar"):uint(), len = at("length"):le_uint(), tag = at("tag"):le_uint(),
    queue = at("queue"):le_uint(), slot = at("slot"):le_uint(), amount = at("amount"):le_uint(),
    offset = at("offset"):le_uint(), region = at("region"):uint(), block = at("block"):uint(),
    flow = at("flow"):le_uint64(), address = at("address"):le_uint64(), translated = at("translated"):le_uint64(),
    bar_offset = at("bar_offset"):le_uint64(), number = at("number"):le_uint64(),
    mono_ns = at("mono_ns"):le_uint64(),
  }
  local k = r.kind
  r.sent = has(r.flags, FLAG.SENT)
  local me, they = SERVICES[r.service] or tostring(r.service), SERVICES[r.other]
  r.src, r.dst = they or me, me
  if r.sent then r.src, r.dst = me, they or me end
  if has(r.flags, FLAG.DIRECT) and not they then r.dst = "memory" end
  if has(r.flags, FLAG.TRANSLATED) then r.translated_to = r.translated end
  local row
  r.reg, row = register_at(r.block, r.offset)
  local begin = at("header_bytes"):uint()
  local kept = buffer:len() - begin
  if TEXTS[k] then
    r.text = kept > 0 and buffer(begin, kept):string() or ""
  elseif kept > 0 and kept <= 8 and kept == r.len then
    r.value = buffer(begin, kept):le_uint64()
  end
  local has_flow = k ~= KIND.BEAT and r.flow ~= UInt64(0)

  local number = pinfo.number
  if not pinfo.visited then
    if has_flow then join_flow(number, tostring(r.flow)) end
    if has_flow and (k == KIND.TUN_READ or k == KIND.TUN_WRITE) then join_flight(number, r, tostring(r.flow)) end
    if ASKS[k] or k == KIND.COMPLETION then join_request(number, r) end
    join_cause(number, r)
    local ring = string.format("%d:%d:%d:%d", at("level"):uint(), r.service, at("pid"):le_uint(),
      at("incarnation"):le_uint())
    local before = last_number[ring]
    if before and r.number > before + 1 then notes(number).missing = r.number - before - 1 end
    if not before or r.number > before then last_number[ring] = r.number end
  end

  local info = info_text(r)
  if r.result ~= 0 and k ~= KIND.TRIGGER then
    info = info .. string.format(" [%s]", RESULTS[r.result] or r.result)
  end
  if r.sent then info = info .. ", sent" end
  pinfo.cols.src = r.src
  pinfo.cols.dst = r.dst
  pinfo.cols.info = info

  local tree = root:add(ntbnet, buffer(), "NTB bridge trace, " .. info)
  tree:add(F.version, at("version"))
  tree:add(F.kind, at("kind"))
  tree:add(F.service, at("service"))
  if r.other ~= 0 then tree:add(F.other, at("other")) end
  tree:add(F.src, r.src):set_generated()
  tree:add(F.dst, r.dst):set_generated()
  local flags = tree:add(F.flags, at("flags"))
  for _, name in ipairs({ "sent", "direct", "is_translated", "outbound", "wake", "up" }) do
    flags:add(F[name], at("flags"))
  end
  local result = tree:add(F.result, at("result"))
  if r.result ~= 0 and k ~= KIND.TRIGGER then result:add_proto_expert_info(refused) end
  tree:add_le(F.epoch, at("epoch"))
  if has_flow then tree:add_le(F.flow, at("flow")) end

  if ACCESSES[k] or k == KIND.COMPLETION or FRAMES[k] then tree:add_le(F.len, at("length")) end
  if ACCESSES[k] or k == KIND.RING_WRITE then tree:add_le(F.addr, at("address")) end
  if INTERRUPTS[k] then tree:add_le(F.bits, at("address")) end
  if r.translated_to then
    tree:add_le(F.translated, at("translated"))
    if r.slot ~= NO_SLOT and k ~= KIND.MSI then tree:add_le(F.window, at("slot")) end
  end
  if r.bar ~= NO_BAR then
    tree:add(F.bar, at("bar"))
    tree:add_le(F.bar_offset, at("bar_offset"))
  end
  if r.region ~= 0 then
    tree:add(F.region, at("region"))
    tree:add_le(F.offset, at("offset"))
  end
  if r.reg then
    tree:add(F.block, at("block"))
    local register = tree:add(F.reg, at("offset"), r.reg)
    if r.value and kept == row[2] and kept <= 4 then
      local word = buffer(begin, kept):le_uint()
      for i = 6, #row do
        local part = row[i]
        register:add(buffer(begin, kept),
          string.format("%s = 0x%x", part[1], math.floor(word / 2 ^ part[2]) % 2 ^ part[3]))
      end
    end
  end
  if ASKS[k] or k == KIND.COMPLETION or k == KIND.OTHER then tree:add_le(F.tag, at("tag")) end
  if FRAMES[k] then tree:add_le(F.queue, at("queue")) end
  if k == KIND.MSI then tree:add_le(F.vector, at("slot")) end
  if k == KIND.IRQ then tree:add_le(F.irq_source, at("slot")) end
  if k == KIND.SLICE then
    tree:add_le(F.handler, at("slot"))
    tree:add_le(F.duration, at("amount"))
  end
  if k == KIND.RING_WRITE then tree:add_le(F.frame, at("slot")) end
  if k == KIND.RING_WRITE or k == KIND.RING_FILL then tree:add_le(F.fill, at("amount")) end
  if r.text then
    if kept > 0 then tree:add(F.text, buffer(begin, kept), r.text) end
  elseif kept > 0 then
    tree:add(F.data, buffer(begin, kept))
    if r.value then tree:add_le(F.value, buffer(begin, kept)) end
  end

  tree:add_le(F.pid, at("pid"))
  tree:add_le(F.incarnation, at("incarnation"))
  tree:add_le(F.mono_ns, at("mono_ns"))
  tree:add(F.level, at("level"))
  tree:add_le(F.number, at("number"))
  local missing = found[number] and found[number].missing
  if missing then tree:add(F.missing, missing):set_generated():add_proto_expert_info(gap) end
  add_links(tree, number)
  if has_flow and FRAMES[k] then add_flight(tree, tostring(r.flow)) end
end

DissectorTable.get("wtap_encap"):add(wtap.USER0, ntbnet)

-- The packets of the nodes' own stacks have their flow as the packet id of the capture file. Older Wiresharks do not
-- show that, and then these packets stay as they are.
local knows_ids, packet_id = pcall(Field.new, "frame.packet_id")
if knows_ids then
  function on_ip.dissector(_, _, root)
    local id = packet_id()
    if not id then return end
    local tree = root:add(on_ip)
    tree:add(F.flow, id.value):set_generated()
    add_flight(tree, tostring(id.value))
  end
  register_postdissector(on_ip)
end
