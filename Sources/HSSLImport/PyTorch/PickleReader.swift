import HSSLFormats

/// Reads the pickle of `torch.save` without running anything: tensors, ordered dictionaries, plain values. Any other
/// opcode or class is refused by name.
///
/// Source: CPython's `pickletools.py`; PyTorch `serialization.py`, `_utils.py`.
struct PickleReader {
    static let byteLimit = 64 << 20

    private let bytes: UnsafeRawBufferPointer
    private var position = 0
    private var stack: [PickleValue] = []
    private var marks: [Int] = []
    private var memo: [Int: PickleValue] = [:]
    private var content = PickleContent()

    private init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

    static func read(_ bytes: UnsafeRawBufferPointer) throws(ForeignFault) -> PickleContent {
        guard bytes.count <= byteLimit else {
            throw ForeignFault("its pickle has \(bytes.count) bytes; at most \(byteLimit) are read")
        }
        var reader = PickleReader(bytes)
        while try reader.step() {}
        return reader.content
    }

    // MARK: Bytes

    private func fault(_ what: String) -> ForeignFault { ForeignFault("its pickle \(what) at byte \(position)") }

    private mutating func unsigned(_ count: Int) throws(ForeignFault) -> Int {
        guard let value = bytes.integer(at: position, count: count) else { throw fault("is cut off") }
        position += count
        return value
    }

    private mutating func take(_ count: Int) throws(ForeignFault) -> Slice<UnsafeRawBufferPointer> {
        guard count >= 0, count <= bytes.count - position else { throw fault("is cut off") }
        defer { position += count }
        return bytes[position..<position + count]
    }

    private mutating func text(_ count: Int) throws(ForeignFault) -> String {
        guard let text = String(validating: try take(count), as: UTF8.self) else {
            throw fault("has text that is not UTF-8")
        }
        return text
    }

    private mutating func line() throws(ForeignFault) -> String {
        guard let end = bytes[position...].prefix(1_024).firstIndex(of: UInt8(ascii: "\n")) else {
            throw fault("has a name without end")
        }
        let text = try text(end - position)
        position += 1
        return text
    }

    // MARK: Stack

    private mutating func pop() throws(ForeignFault) -> PickleValue {
        guard stack.count > (marks.last ?? 0), let value = stack.popLast() else {
            throw fault("takes what is not there")
        }
        return value
    }

    private mutating func popMark() throws(ForeignFault) -> [PickleValue] {
        guard let mark = marks.popLast() else { throw fault("has no mark") }
        defer { stack.removeSubrange(mark...) }
        return Array(stack[mark...])
    }

    private mutating func push(tuple: [PickleValue]) {
        content.tuples.append(tuple)
        stack.append(.tuple(content.tuples.count - 1))
    }

    private mutating func pushDictionary() {
        content.dictionaries.append([])
        stack.append(.dictionary(content.dictionaries.count - 1))
    }

    private mutating func append(_ values: [PickleValue]) throws(ForeignFault) {
        guard case .list(let index)? = stack.last else { throw fault("appends to what is no list") }
        content.lists[index] += values
    }

    private mutating func set(_ items: [PickleValue]) throws(ForeignFault) {
        guard case .dictionary(let index)? = stack.last, items.count % 2 == 0 else {
            throw fault("sets items of what is no dictionary")
        }
        for i in stride(from: 0, to: items.count, by: 2) {
            content.dictionaries[index].append((items[i], items[i + 1]))
        }
    }

    private func recall(_ key: Int) throws(ForeignFault) -> PickleValue {
        guard let value = memo[key] else { throw fault("recalls what it never stored") }
        return value
    }

    private mutating func memorize(_ key: Int) throws(ForeignFault) {
        guard let value = stack.last else { throw fault("stores what is not there") }
        memo[key] = value
    }

    // MARK: Opcodes

    /// False at the end.
    private mutating func step() throws(ForeignFault) -> Bool {
        let start = position
        let opcode = UInt8(try unsigned(1))
        switch opcode {
        case 0x80:  // PROTO
            let version = try unsigned(1)
            guard (2...5).contains(version) else { throw fault("is of protocol \(version)") }
        case 0x95: _ = try unsigned(8)  // FRAME
        case UInt8(ascii: "."):
            content.root = try pop()
            return false
        case UInt8(ascii: "("): marks.append(stack.count)
        case UInt8(ascii: "0"): _ = try pop()
        case UInt8(ascii: "1"): _ = try popMark()
        case UInt8(ascii: "N"): stack.append(.none)
        case 0x88: stack.append(.bool(true))
        case 0x89: stack.append(.bool(false))
        case UInt8(ascii: "J"): stack.append(.integer(Int(Int32(truncatingIfNeeded: try unsigned(4)))))
        case UInt8(ascii: "K"): stack.append(.integer(try unsigned(1)))
        case UInt8(ascii: "M"): stack.append(.integer(try unsigned(2)))
        case 0x8a: try long(try unsigned(1))
        case UInt8(ascii: "G"):
            let raw = try take(8).reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
            stack.append(.number(Double(bitPattern: raw)))
        case UInt8(ascii: "X"): stack.append(.string(try text(try unsigned(4))))
        case 0x8c: stack.append(.string(try text(try unsigned(1))))
        case 0x8d: stack.append(.string(try text(try unsigned(8))))
        case UInt8(ascii: "B"): try bytesValue(4)
        case UInt8(ascii: "C"): try bytesValue(1)
        case 0x8e: try bytesValue(8)
        case UInt8(ascii: "T"): try bytesValue(4)
        case UInt8(ascii: "U"): try bytesValue(1)
        case UInt8(ascii: "]"):
            content.lists.append([])
            stack.append(.list(content.lists.count - 1))
        case UInt8(ascii: "a"): try append([try pop()])
        case UInt8(ascii: "e"): try append(try popMark())
        case UInt8(ascii: ")"): push(tuple: [])
        case UInt8(ascii: "t"): push(tuple: try popMark())
        case 0x85...0x87:
            var values: [PickleValue] = []
            for _ in 0..<Int(opcode) - 0x84 { values.append(try pop()) }
            push(tuple: values.reversed())
        case UInt8(ascii: "}"): pushDictionary()
        case UInt8(ascii: "s"):
            let value = try pop()
            let key = try pop()
            try set([key, value])
        case UInt8(ascii: "u"): try set(try popMark())
        case UInt8(ascii: "q"): try memorize(try unsigned(1))
        case UInt8(ascii: "r"): try memorize(try unsigned(4))
        case 0x94: try memorize(memo.count)
        case UInt8(ascii: "h"): stack.append(try recall(try unsigned(1)))
        case UInt8(ascii: "j"): stack.append(try recall(try unsigned(4)))
        case UInt8(ascii: "c"):
            let module = try line()
            let name = try line()
            try pushGlobal(module, name)
        case 0x93:
            guard case .string(let name) = try pop(), case .string(let module) = try pop() else {
                throw fault("names a class by what is no text")
            }
            try pushGlobal(module, name)
        case UInt8(ascii: "Q"): try persistent()
        case UInt8(ascii: "R"): try reduce()
        case 0x81: try newObject()
        case UInt8(ascii: "b"): try build()
        default:
            position = start
            throw fault(
                "has the opcode 0x\(String(opcode, radix: 16)), which no tensor, dictionary or plain value needs,")
        }
        return true
    }

    private mutating func bytesValue(_ size: Int) throws(ForeignFault) {
        _ = try take(try unsigned(size))
        stack.append(.other)
    }

    private mutating func long(_ count: Int) throws(ForeignFault) {
        let raw = try take(count)
        guard count <= 8 else {
            stack.append(.other)
            return
        }
        var value: UInt64 = raw.last.map { $0 & 0x80 != 0 } == true ? .max : 0
        for byte in raw.reversed() { value = value << 8 | UInt64(byte) }
        stack.append(.integer(Int(Int64(bitPattern: value))))
    }

    // MARK: Classes

    private mutating func pushGlobal(_ module: String, _ name: String) throws(ForeignFault) {
        guard let global = PickleGlobal(module: module, name: name) else {
            throw fault(
                """
                names \(oneLine(module)).\(oneLine(name)), which is not run: only tensors, dictionaries and plain values \
                are read (in Python, save the state dict alone: torch.save(model.state_dict(), …))
                """)
        }
        stack.append(.global(global))
    }

    /// A storage: ('storage', class, key, location, elements).
    private mutating func persistent() throws(ForeignFault) {
        guard case .tuple(let index) = try pop(), content.tuples[index].count == 5,
            case .string("storage") = content.tuples[index][0], case .global(let global) = content.tuples[index][1],
            case .string(let key) = content.tuples[index][2], case .integer(let count) = content.tuples[index][4],
            count >= 0, count <= 1 << 46
        else { throw fault("refers to what is no storage") }
        switch global {
        case .storage(let type): stack.append(.storage(TorchStorage(type: type, key: key, count: count)))
        case .untypedStorage: stack.append(.storage(TorchStorage(type: .byte, key: key, count: count)))
        default: throw fault("refers to what is no storage")
        }
    }

    private mutating func reduce() throws(ForeignFault) {
        guard case .tuple(let index) = try pop() else { throw fault("calls with what is no tuple") }
        guard case .global(let global) = try pop() else { throw fault("calls what is no class") }
        let arguments = content.tuples[index]
        switch global {
        case .rebuildTensor, .rebuildTensorOfType: try rebuildTensor(arguments, isTyped: global == .rebuildTensorOfType)
        case .rebuildParameter:
            guard let first = arguments.first, case .tensor = first else {
                throw fault("makes a parameter of no tensor")
            }
            stack.append(first)
        case .orderedDictionary:
            guard arguments.isEmpty else { throw fault("makes a dictionary of a list, which is not supported,") }
            pushDictionary()
        case .size:
            guard case .tuple(let sizes)? = arguments.first else { throw fault("makes a size of no tuple") }
            stack.append(.tuple(sizes))
        case .device: stack.append(.other)
        case .namespace, .storage, .untypedStorage, .type: throw fault("calls \(global), which is not supported,")
        }
    }

    private mutating func rebuildTensor(_ arguments: [PickleValue], isTyped: Bool) throws(ForeignFault) {
        guard arguments.count >= (isTyped ? 7 : 6), case .storage(let storage) = arguments[0],
            case .integer(let offset) = arguments[1],
            let shape = integers(arguments[2]), let strides = integers(arguments[3])
        else { throw fault("has a tensor that is not one") }
        var type = storage.type
        if isTyped {
            guard case .global(.type(let own)) = arguments[6] else { throw fault("has a tensor of no type") }
            type = own
        }
        content.tensors.append(
            try TorchTensor(storage: storage, type: type, offset: offset, shape: shape, strides: strides))
        stack.append(.tensor(content.tensors.count - 1))
    }

    private func integers(_ value: PickleValue) -> [Int]? {
        guard case .tuple(let index) = value else { return nil }
        var result: [Int] = []
        for value in content.tuples[index] {
            guard case .integer(let number) = value else { return nil }
            result.append(number)
        }
        return result
    }

    private mutating func newObject() throws(ForeignFault) {
        guard case .tuple(let index) = try pop(), content.tuples[index].isEmpty else {
            throw fault("makes an object with arguments")
        }
        guard case .global(let global) = try pop(), global == .namespace || global == .orderedDictionary else {
            throw fault("makes an object of what is no class")
        }
        pushDictionary()
    }

    /// Attributes, which are passed over: a dictionary's `_metadata`, the arguments of a program.
    private mutating func build() throws(ForeignFault) {
        guard case .dictionary = try pop(), case .dictionary? = stack.last else {
            throw fault("gives attributes to what has none")
        }
    }
}
