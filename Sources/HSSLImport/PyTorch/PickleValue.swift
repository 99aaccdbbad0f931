/// What a pickle may hold. Containers and tensors live in a `PickleContent` and are named by their place there, so that
/// however deep they are nested, nothing of it is nested in memory.
enum PickleValue {
    case none
    case bool(Bool)
    case integer(Int)
    case number(Double)
    case string(String)
    /// A value that is passed over: bytes, a device, a long integer.
    case other
    case list(Int)
    case tuple(Int)
    case dictionary(Int)
    case tensor(Int)
    case storage(TorchStorage)
    case global(PickleGlobal)
}

/// The classes and functions that a pickle may name. None is ever run: each says which value is meant.
enum PickleGlobal: Equatable {
    case rebuildTensor, rebuildTensorOfType, rebuildParameter
    case orderedDictionary, namespace, size, device
    /// `torch.FloatStorage` and the like.
    case storage(TorchType)
    /// Bytes whose type the tensor says.
    case untypedStorage
    /// `torch.float32` and the like.
    case type(TorchType)

    /// Nil for any other name.
    init?(module: String, name: String) {
        switch (module, name) {
        case ("torch._utils", "_rebuild_tensor_v2"): self = .rebuildTensor
        case ("torch._utils", "_rebuild_tensor_v3"): self = .rebuildTensorOfType
        case ("torch._utils", "_rebuild_parameter"): self = .rebuildParameter
        case ("collections", "OrderedDict"): self = .orderedDictionary
        case ("argparse", "Namespace"): self = .namespace
        case ("torch", "Size"): self = .size
        case ("torch", "device"): self = .device
        case ("torch.storage", "UntypedStorage"): self = .untypedStorage
        case ("torch", _):
            if let type = TorchType.all.first(where: { $0.storageName == name }) {
                self = .storage(type)
            } else if let type = TorchType.all.first(where: { $0.name == name }) {
                self = .type(type)
            } else {
                return nil
            }
        default: return nil
        }
    }
}

/// An element type of PyTorch.
struct TorchType: Equatable, Sendable {
    /// e.g. `float32`.
    let name: String
    /// Bytes of an element.
    let size: Int
    /// e.g. `FloatStorage`; nil: it has no storage class of its own.
    let storageName: String?

    static let all = [
        TorchType(name: "float32", size: 4, storageName: "FloatStorage"),
        TorchType(name: "float64", size: 8, storageName: "DoubleStorage"),
        TorchType(name: "float16", size: 2, storageName: "HalfStorage"),
        TorchType(name: "bfloat16", size: 2, storageName: "BFloat16Storage"),
        TorchType(name: "int64", size: 8, storageName: "LongStorage"),
        TorchType(name: "int32", size: 4, storageName: "IntStorage"),
        TorchType(name: "int16", size: 2, storageName: "ShortStorage"),
        TorchType(name: "int8", size: 1, storageName: "CharStorage"),
        TorchType(name: "uint8", size: 1, storageName: "ByteStorage"),
        TorchType(name: "bool", size: 1, storageName: "BoolStorage"),
        TorchType(name: "float8_e4m3fn", size: 1, storageName: nil),
        TorchType(name: "float8_e5m2", size: 1, storageName: nil),
        TorchType(name: "float8_e4m3fnuz", size: 1, storageName: nil),
        TorchType(name: "float8_e5m2fnuz", size: 1, storageName: nil),
        TorchType(name: "uint16", size: 2, storageName: nil),
        TorchType(name: "uint32", size: 4, storageName: nil),
        TorchType(name: "uint64", size: 8, storageName: nil),
    ]
    static let byte = all[8]
}

/// Memory that tensors share: a file `data/KEY` of the archive.
struct TorchStorage: Equatable, Sendable {
    let type: TorchType
    let key: String
    /// Elements of `type`.
    let count: Int
}

/// A tensor: some elements of a storage.
struct TorchTensor: Equatable, Sendable {
    let storage: TorchStorage
    let type: TorchType
    /// Elements of `type` from the storage's beginning.
    let offset: Int
    let shape: [Int]
    let strides: [Int]

    var count: Int { shape.reduce(1, *) }

    /// - Throws: for a shape that reaches beyond the storage, or repeats elements.
    init(
        storage: TorchStorage, type: TorchType, offset: Int, shape: [Int], strides: [Int]
    ) throws(ForeignFault) {
        let held = storage.count * storage.type.size / type.size
        guard offset >= 0, shape.count == strides.count, shape.count <= 16, shape.allSatisfy({ $0 >= 0 }) else {
            throw ForeignFault("a tensor of storage '\(storage.key)' has a shape that cannot be")
        }
        var (count, last) = (1, offset)
        for (length, stride) in zip(shape, strides) {
            let (product, overflow) = count.multipliedReportingOverflow(by: length)
            guard !overflow, stride >= 0 else {
                throw ForeignFault("a tensor of storage '\(storage.key)' has a shape or strides that cannot be")
            }
            count = product
            let (step, tooFar) = max(length - 1, 0).multipliedReportingOverflow(by: stride)
            let (sum, farther) = last.addingReportingOverflow(step)
            guard !tooFar, !farther else {
                throw ForeignFault("a tensor of storage '\(storage.key)' reaches beyond it")
            }
            last = sum
        }
        guard count == 0 || last < held, offset <= held else {
            throw ForeignFault("a tensor of storage '\(storage.key)' reaches beyond it: element \(last) of \(held)")
        }
        guard count <= held else {
            throw ForeignFault("a tensor of storage '\(storage.key)' repeats elements: \(count) of \(held)")
        }
        (self.storage, self.type, self.offset, self.shape, self.strides) = (storage, type, offset, shape, strides)
    }
}

/// The containers and tensors of one pickle, and its outermost value.
struct PickleContent {
    var lists: [[PickleValue]] = []
    var tuples: [[PickleValue]] = []
    var dictionaries: [[(key: PickleValue, value: PickleValue)]] = []
    var tensors: [TorchTensor] = []
    var root = PickleValue.none

    /// Members of a dictionary under string keys, in order.
    func members(_ value: PickleValue) -> [(key: String, value: PickleValue)]? {
        guard case .dictionary(let index) = value else { return nil }
        return dictionaries[index].compactMap { key, value in
            if case .string(let name) = key { (name, value) } else { nil }
        }
    }
}
