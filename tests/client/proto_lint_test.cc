// The API's rules of form, held over the descriptor set that callers get.

#include <fstream>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/descriptor.pb.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::google::protobuf::Descriptor;
using ::google::protobuf::DescriptorPool;
using ::google::protobuf::EnumDescriptor;
using ::google::protobuf::FieldDescriptor;
using ::google::protobuf::FileDescriptor;
using ::google::protobuf::MethodDescriptor;
using ::google::protobuf::ServiceDescriptor;
using ::google::protobuf::SourceLocation;
using ::testing::IsEmpty;

// "MaxTokens" -> "MAX_TOKENS".
std::string UpperSnake(const std::string& pascal) {
  std::string result;
  for (const char c : pascal) {
    if (absl::ascii_isupper(c) && !result.empty()) result.push_back('_');
    result.push_back(absl::ascii_toupper(c));
  }
  return result;
}

template <typename Element>
bool HasComment(const Element& element) {
  SourceLocation location;
  return element.GetSourceLocation(&location) &&
         !absl::StripAsciiWhitespace(location.leading_comments +
                                     location.trailing_comments)
              .empty();
}

// Calls the visitors, where they are set, for everything that our own files
// define. Entries of maps are no messages of ours.
struct Visitor {
  std::function<void(const FileDescriptor&)> file;
  std::function<void(const ServiceDescriptor&)> service;
  std::function<void(const Descriptor&)> message;
  std::function<void(const FieldDescriptor&)> field;
  std::function<void(const EnumDescriptor&)> enumeration;
};

void VisitEnum(const EnumDescriptor& enumeration, const Visitor& visitor) {
  if (visitor.enumeration) visitor.enumeration(enumeration);
}

void VisitMessage(const Descriptor& message, const Visitor& visitor) {
  if (message.options().map_entry()) return;
  if (visitor.message) visitor.message(message);
  for (int i = 0; i < message.field_count(); ++i) {
    if (visitor.field) visitor.field(*message.field(i));
  }
  for (int i = 0; i < message.enum_type_count(); ++i) {
    VisitEnum(*message.enum_type(i), visitor);
  }
  for (int i = 0; i < message.nested_type_count(); ++i) {
    VisitMessage(*message.nested_type(i), visitor);
  }
}

void VisitFile(const FileDescriptor& file, const Visitor& visitor) {
  if (visitor.file) visitor.file(file);
  for (int i = 0; i < file.service_count(); ++i) {
    if (visitor.service) visitor.service(*file.service(i));
  }
  for (int i = 0; i < file.message_type_count(); ++i) {
    VisitMessage(*file.message_type(i), visitor);
  }
  for (int i = 0; i < file.enum_type_count(); ++i) {
    VisitEnum(*file.enum_type(i), visitor);
  }
}

class ProtoLintTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::ifstream stream(SPARSESERVE_PROTOSET, std::ios::binary);
    google::protobuf::FileDescriptorSet set;
    ASSERT_TRUE(set.ParseFromIstream(&stream)) << SPARSESERVE_PROTOSET;
    for (const auto& file : set.file()) {
      const FileDescriptor* built = pool_.BuildFile(file);
      ASSERT_NE(built, nullptr) << file.name();
      if (absl::StartsWith(file.package(), "sparseserve.")) {
        files_.push_back(built);
      }
    }
    ASSERT_GE(files_.size(), 3);
  }

  void Visit(const Visitor& visitor) const {
    for (const FileDescriptor* file : files_) VisitFile(*file, visitor);
  }

  DescriptorPool pool_;
  // Ours; what we only copy keeps its owner's rules.
  std::vector<const FileDescriptor*> files_;
};

TEST_F(ProtoLintTest, EveryElementHasAComment) {
  std::vector<std::string> missing;
  const auto check = [&missing](const auto& element) {
    if (!HasComment(element)) missing.push_back(element.full_name());
  };
  Visit({.service =
             [&](const ServiceDescriptor& service) {
               check(service);
               for (int i = 0; i < service.method_count(); ++i) {
                 check(*service.method(i));
               }
             },
         .message = check,
         .field = check,
         .enumeration =
             [&](const EnumDescriptor& enumeration) {
               check(enumeration);
               for (int i = 0; i < enumeration.value_count(); ++i) {
                 check(*enumeration.value(i));
               }
             }});
  EXPECT_THAT(missing, IsEmpty());
}

TEST_F(ProtoLintTest, FoldersFollowPackages) {
  Visit({.file = [](const FileDescriptor& file) {
    EXPECT_EQ(file.syntax(), FileDescriptor::SYNTAX_PROTO3) << file.name();
    const std::string folder =
        absl::StrReplaceAll(file.package(), {{".", "/"}});
    EXPECT_TRUE(absl::StartsWith(file.name(), folder + "/")) << file.name();
    EXPECT_EQ(file.name().find('/', folder.size() + 1), std::string::npos)
        << file.name();
  }});
}

TEST_F(ProtoLintTest, NoFieldIsUnsigned) {
  const std::set<FieldDescriptor::Type> refused = {
      FieldDescriptor::TYPE_UINT32, FieldDescriptor::TYPE_UINT64,
      FieldDescriptor::TYPE_FIXED32, FieldDescriptor::TYPE_FIXED64,
      FieldDescriptor::TYPE_GROUP};
  Visit({.field = [&refused](const FieldDescriptor& field) {
    EXPECT_FALSE(refused.contains(field.type())) << field.full_name();
  }});
}

TEST_F(ProtoLintTest, FieldsAreLowerSnakeCase) {
  Visit({.field = [](const FieldDescriptor& field) {
    for (const char c : field.name()) {
      EXPECT_TRUE(absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '_')
          << field.full_name();
    }
  }});
}

TEST_F(ProtoLintTest, EnumsBeginWithUnspecified) {
  Visit({.enumeration = [](const EnumDescriptor& enumeration) {
    const std::string prefix = UpperSnake(enumeration.name()) + "_";
    EXPECT_EQ(enumeration.value(0)->name(), prefix + "UNSPECIFIED");
    EXPECT_EQ(enumeration.value(0)->number(), 0) << enumeration.full_name();
    // Values of an enum outside messages share their scope with others.
    if (enumeration.containing_type() != nullptr) return;
    for (int i = 0; i < enumeration.value_count(); ++i) {
      EXPECT_TRUE(absl::StartsWith(enumeration.value(i)->name(), prefix))
          << enumeration.value(i)->full_name();
    }
  }});
}

TEST_F(ProtoLintTest, EveryMethodHasMessagesOfItsOwn) {
  std::map<std::string, int> uses;
  Visit({.service = [&uses](const ServiceDescriptor& service) {
    EXPECT_TRUE(absl::EndsWith(service.name(), "Service")) << service.name();
    for (int i = 0; i < service.method_count(); ++i) {
      const MethodDescriptor& method = *service.method(i);
      EXPECT_EQ(method.input_type()->name(),
                absl::StrCat(method.name(), "Request"));
      EXPECT_EQ(method.output_type()->name(),
                absl::StrCat(method.name(), "Response"));
      ++uses[method.input_type()->full_name()];
      ++uses[method.output_type()->full_name()];
    }
  }});
  EXPECT_FALSE(uses.empty());
  for (const auto& [message, count] : uses) EXPECT_EQ(count, 1) << message;
}

}  // namespace
}  // namespace sparseserve
