import CSupport
import HSSLEvaluation
import HSSLFormats

/// Directions in which a teacher's cells differ most from nothing: coordinates along them are the low-rank factor that
/// a bank keeps, and inner products of cells are those of coordinates but for what lies beside the directions.
///
/// They are the leading eigenvectors of the mean of x·xᵀ, uncentred, because inner products are.
struct CellBasis {
    /// [rank, width], orthonormal rows.
    let vectors: [Float]
    let rank: Int
    /// Part of the cells' squared length that lies along them.
    let share: Double
    private let layer: LinearLayer

    private init(vectors: [Float], rank: Int, share: Double) {
        (self.vectors, self.rank, self.share) = (vectors, rank, share)
        layer = LinearLayer(
            weights: vectors, biases: [Float](repeating: 0, count: rank), dimension: vectors.count / rank)
    }

    /// - Parameter moments: of at least one cell.
    init(_ moments: CellMoments, rank: Int) {
        // Directions that are as strong as one another need not be told apart: their span matters.
        let (vectors, strengths) = PrincipalComponents.leading(
            moments.mean, dimension: moments.width, count: rank, tolerance: 1e-6)
        let total = moments.total
        self.init(
            vectors: vectors.flatMap { $0.map { Float($0) } }, rank: rank,
            share: total > 0 ? min(1, strengths.reduce(0, +) / total) : 1)
    }

    /// Cells [rows, width] → [rows, rank].
    func coordinates(of cells: [Float]) -> [Float] {
        let rows = cells.count / (vectors.count / rank)
        var result = [Float](repeating: 0, count: rows * rank)
        cells.withUnsafeBufferPointer { cells in
            if let start = cells.baseAddress { layer.apply(to: start, rows: rows, into: &result) }
        }
        return result
    }

    // MARK: The file

    static let fileName = "basis.safetensors"
    private static let tensor = "basis", shareKey = "hssl.bank_share"

    func write(to path: String, bank: ViewBankIdentity, calls: SystemCalls) throws {
        try SafetensorsWriter.write(
            path: path,
            tensors: [SafetensorsTensor(name: Self.tensor, shape: [rank, vectors.count / rank], values: vectors)],
            metadata: [ViewBankShard.bankKey: bank.checksum, Self.shareKey: "\(share)"], calls: calls)
    }

    /// - Throws: errors naming the file: damaged, or another bank's.
    init(path: String, bank: ViewBankIdentity) throws {
        let file = try SafetensorsFile(path: path)
        try ViewBankShard.checkOwner(file, bank)
        let (rank, width) = (bank.layout.rank, bank.layout.width)
        self.init(
            vectors: try file.floats(Self.tensor, shape: [rank, width]), rank: rank,
            share: file.metadata[Self.shareKey].flatMap(Double.init) ?? 0)
    }
}

/// Sums of x·xᵀ over cells.
struct CellMoments {
    let width: Int
    /// [width, width].
    private var sums: [Float]
    private(set) var count = 0

    init(width: Int) {
        self.width = width
        sums = [Float](repeating: 0, count: width * width)
    }

    /// Cells [rows, width].
    mutating func add(_ cells: [Float]) {
        let rows = cells.count / width
        guard rows > 0 else { return }
        withUnsafeTemporaryAllocation(
            byteCount: max(64, hssl_gemm_f32_unpacked_workspace_size(width, width, rows)), alignment: 64
        ) { workspace in
            hssl_gemm_f32_unpacked(
                width, width, rows, cells, 1, width, cells, width, 1, &sums, width, count > 0, nil,
                workspace.baseAddress)
        }
        count += rows
    }

    /// Mean of x·xᵀ.
    var mean: [Float] { sums.map { $0 / Float(max(count, 1)) } }
    /// Mean of |x|².
    var total: Double { (0..<width).reduce(0) { $0 + Double(sums[$1 * width + $1]) } / Double(max(count, 1)) }
}
