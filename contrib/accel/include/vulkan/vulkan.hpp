// The engine names a structure that Debian 12's Vulkan headers do not have yet, in
// order to hand it to a validation layer that nobody loads. Here it is for headers
// without VK_EXT_layer_settings, as the specification has it.
#pragma once
#include_next <vulkan/vulkan.hpp>
#ifndef VK_EXT_layer_settings
#include <cstdint>
#include <vector>
namespace VULKAN_HPP_NAMESPACE {
enum class LayerSettingTypeEXT : uint32_t { eBool32 = 0 };
struct LayerSettingEXT {
	const char *pLayerName;
	const char *pSettingName;
	LayerSettingTypeEXT type;
	uint32_t valueCount;
	const void *pValues;
};
struct LayerSettingsCreateInfoEXT {
	explicit LayerSettingsCreateInfoEXT(const std::vector<LayerSettingEXT> &s) : settingCount(uint32_t(s.size())), pSettings(s.data()) {}
	uint32_t sType = 1000496000;
	const void *pNext = nullptr;
	uint32_t settingCount;
	const LayerSettingEXT *pSettings;
};
} // namespace VULKAN_HPP_NAMESPACE
#endif
